CREATE TABLE warehouse (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    city text NOT NULL UNIQUE
);

CREATE TABLE stock (
    warehouse_id bigint NOT NULL REFERENCES warehouse,
    product_id bigint NOT NULL REFERENCES product,
    amount integer NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (warehouse_id, product_id)
);

CREATE TABLE purchase (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customer,
    ordered_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON purchase (customer_id, ordered_at);

CREATE TABLE purchase_item (
    purchase_id bigint NOT NULL REFERENCES purchase ON DELETE CASCADE,
    product_id bigint NOT NULL REFERENCES product,
    amount integer NOT NULL CHECK (amount > 0),
    PRIMARY KEY (purchase_id, product_id)
);

CREATE TABLE payment (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    purchase_id bigint NOT NULL REFERENCES purchase ON DELETE CASCADE,
    total numeric(10, 2) NOT NULL
);

CREATE TABLE shipment (
    purchase_id bigint PRIMARY KEY REFERENCES purchase ON DELETE CASCADE,
    address_id bigint NOT NULL REFERENCES address,
    sent_at timestamptz
);
