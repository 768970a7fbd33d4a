#!/bin/sh
# Run once by the image of PostgreSQL, when it makes the database.
exec psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" \
    -v password="$ORDERS_HOLDING_PASSWORD" -f /opt/orders/orders_holding.sql
