CREATE TABLE customer (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email text NOT NULL UNIQUE
);

CREATE TABLE address (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customer,
    street text NOT NULL,
    city text NOT NULL
);

CREATE TABLE review (
    customer_id bigint NOT NULL REFERENCES customer,
    product_id bigint NOT NULL REFERENCES product,
    stars smallint NOT NULL CHECK (stars BETWEEN 1 AND 5),
    PRIMARY KEY (customer_id, product_id)
);
