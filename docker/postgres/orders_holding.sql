-- In processing's database: who takes orders in holds stock there, and may do nothing else: no other table's rows
-- can be deleted, no table made or dropped. Run by the database's owner, before its first migration:
--   psql -v password=… -f orders_holding.sql

CREATE ROLE orders_holding LOGIN PASSWORD :'password';
GRANT CONNECT ON DATABASE processing TO orders_holding;
GRANT USAGE ON SCHEMA public TO orders_holding;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE ON TABLES TO orders_holding;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO orders_holding;
