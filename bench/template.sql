-- A template of the benchmark, for psql: as many tables as the variable "tables" says, owned by the role bench_owner.
-- Each has 11 files: a heap with both its maps, what was put out of line and its index, a sequence, five indexes.
SET ROLE bench_owner;

SELECT format('CREATE TABLE tab_%s (
                   id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                   parent_id bigint,
                   number int NOT NULL,
                   name text NOT NULL,
                   data jsonb NOT NULL,
                   created_at timestamptz NOT NULL DEFAULT now())', n),
       format('INSERT INTO tab_%s (parent_id, number, name, data)
                   SELECT i / 2, i %% 17, ''row '' || i, jsonb_build_object(''number'', i, ''even'', i %% 2 = 0)
                   FROM generate_series(1, 350) i', n),
       format('CREATE INDEX ON tab_%s (parent_id)', n),
       format('CREATE INDEX ON tab_%s (number)', n),
       format('CREATE INDEX ON tab_%s (name)', n),
       format('CREATE INDEX ON tab_%s (created_at, id)', n)
FROM generate_series(1, :tables) n
\gexec

-- What the case "truncate" calls after it has emptied all tables: the template's rows again.
CREATE FUNCTION bench_refill() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1 .. (SELECT count(*) FROM pg_class WHERE relname LIKE 'tab\_%' AND relkind = 'r') LOOP
        EXECUTE format('INSERT INTO tab_%s (parent_id, number, name, data)
                            SELECT i / 2, i %% 17, ''row '' || i, jsonb_build_object(''number'', i, ''even'', i %% 2 = 0)
                            FROM generate_series(1, 350) i', n);
    END LOOP;
    INSERT INTO bench_row (note) VALUES ('template');
END$$;
RESET ROLE;
