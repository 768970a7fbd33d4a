#!/bin/sh
# The image of PostgreSQL runs this once, when it creates the database.
exec psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" \
    -v password="$ORDERS_HOLDING_PASSWORD" -f /opt/orders/orders_holding.sql
