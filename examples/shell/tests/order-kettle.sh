#!/bin/sh
# A database for each test.
. testing/database.sh

takes_from_stock() {
    # Number 1, each time: the sequences are the template's, too.
    equal "$(bin/shop order 1 1 "$1")" 1
    equal "$(bin/shop stock 1)" "$((5 - $1))"
}

takes_nothing_if_something_is_missing() {
    if bin/shop order 1 1 6 2>/dev/null; then return 1; fi
    equal "$(bin/shop stock 1)" 5
}

for amount in 1 2 3 4 5; do
    with_database "$amount taken from stock" takes_from_stock "$amount"
done
with_database 'nothing is taken if something is missing' takes_nothing_if_something_is_missing
done_testing
