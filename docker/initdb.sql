-- Run once by the image's entrypoint, on a new data directory, in POSTGRES_DB: makes the extension where clients connect to
-- ask for a clone. Not in template1: what is there would be in every database that is made from it.
CREATE EXTENSION testdb;
SELECT current_database() <> 'postgres' AS other \gset
\if :other
\c postgres
CREATE EXTENSION testdb;
\endif
