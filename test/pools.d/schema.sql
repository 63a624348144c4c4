-- What the pools' application has. Rows of the template have life -1, those of the application the number of rewinds before.
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE item (id bigserial PRIMARY KEY, life int NOT NULL, name text NOT NULL, mood mood NOT NULL DEFAULT 'good');
CREATE INDEX ON item (life);
INSERT INTO item (life, name) SELECT -1, 'item ' || g FROM generate_series(1, 1000) g;
VACUUM (FREEZE, ANALYZE);
