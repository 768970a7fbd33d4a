// Says what is wrong with an AsyncAPI document: node validate.mjs FILE
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const diagnostics = await new Parser().validate(readFileSync(process.argv[2], "utf8"));
const ERROR = 0;
for (const { severity, code, path, message } of diagnostics)
  console.log(`${severity === ERROR ? "error" : "hint"} ${code} ${path.join(".")}: ${message}`);
process.exit(diagnostics.some(({ severity }) => severity === ERROR) ? 1 : 0);
