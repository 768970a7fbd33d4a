"""The table in which every effect of the tests' messages leaves a row."""

CREATE = "CREATE TABLE IF NOT EXISTS counted (message_id uuid, at timestamptz DEFAULT clock_timestamp())"
