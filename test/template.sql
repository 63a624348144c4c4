-- The demo's template: what a mid-sized application's database may look like. 100 tables, each with a primary key, an
-- identity column, an index, a text column that may be toasted, and a reference to the table before it.
DO $$
DECLARE
    subjects text[] := ARRAY['account', 'address', 'article', 'booking', 'comment', 'contract', 'device', 'document',
                             'event', 'invoice', 'item', 'message', 'order', 'payment', 'product', 'project',
                             'shipment', 'task', 'ticket', 'visit'];
    aspects text[] := ARRAY['list', 'history', 'label', 'note', 'state'];
    subject text;
    aspect text;
    tab text;
    parent text;
BEGIN
    FOREACH subject IN ARRAY subjects LOOP
        FOREACH aspect IN ARRAY aspects LOOP
            tab := subject || '_' || aspect;
            EXECUTE format('CREATE TABLE %I (
                                id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                                parent_id bigint %s,
                                name text NOT NULL,
                                data jsonb NOT NULL DEFAULT ''{}'',
                                created_at timestamptz NOT NULL DEFAULT now())',
                           tab, 'REFERENCES ' || quote_ident(parent));
            EXECUTE format('CREATE INDEX ON %I (parent_id, created_at)', tab);
            EXECUTE format('INSERT INTO %I (parent_id, name, data)
                            SELECT CASE WHEN %L THEN n END, %L || n, jsonb_build_object(''number'', n, ''even'', n %% 2 = 0)
                            FROM generate_series(1, 150) n', tab, parent IS NOT NULL, subject || ' ');
            parent := tab;
        END LOOP;
    END LOOP;
END
$$;
VACUUM ANALYZE;
