#!/usr/bin/env bash
# Run once by the image's entrypoint, on a new data directory: makes the extension where clients connect to ask for a
# clone. Not in template1: what is there would be in every database that is made from it.
set -eu

# make_extension DATABASE: makes it there.
make_extension() {
    psql -X -q -v ON_ERROR_STOP=1 --no-password -U "$POSTGRES_USER" -d "$1" -c 'CREATE EXTENSION testdb'
}

make_extension postgres
if [ "$POSTGRES_DB" != postgres ]; then
    make_extension "$POSTGRES_DB"
fi
