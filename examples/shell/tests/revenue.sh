#!/bin/sh
# One database for this script, rewound before each test.
. testing/database.sh

adds_to_revenue() {
    equal "$(bin/shop revenue)" 0
    bin/shop pay "$(bin/shop order 1 "$1" 2)" >/dev/null
    equal "$(bin/shop revenue)" "$2"
}

table_may_go() {
    psql -Xq -v ON_ERROR_STOP=1 -c 'DROP TABLE shipment' "$DATABASE_URL"
}

table_is_back() {
    equal "$(psql -XAtq -c 'SELECT count(*) FROM shipment' "$DATABASE_URL")" 0
}

with_same 'revenue with a kettle' adds_to_revenue 1 60.00
with_same 'revenue with a teapot' adds_to_revenue 2 51.00
with_same 'revenue with a rake' adds_to_revenue 3 24.00
with_same 'a table may go' table_may_go
with_same 'the table is back' table_is_back
done_testing
