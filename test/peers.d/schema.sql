-- A template for the transcripts, and for bench/peers and bench/servers: 100 tables, each with an index, a sequence and ten rows.
DO $$
BEGIN
    FOR n IN 1 .. 100 LOOP
        EXECUTE format('CREATE TABLE tab_%s (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL)', n);
        EXECUTE format('CREATE INDEX ON tab_%s (name)', n);
        EXECUTE format('INSERT INTO tab_%s (name) SELECT ''row '' || i FROM generate_series(1, 10) i', n);
    END LOOP;
END$$;
