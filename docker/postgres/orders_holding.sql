-- The role with which orders holds stock in the database of processing. It can delete no rows, and create and drop no
-- tables. The owner of the database runs this before the first migration:
--   psql -v password=… -f orders_holding.sql

CREATE ROLE orders_holding LOGIN PASSWORD :'password';
GRANT CONNECT ON DATABASE processing TO orders_holding;
GRANT USAGE ON SCHEMA public TO orders_holding;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE ON TABLES TO orders_holding;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO orders_holding;
