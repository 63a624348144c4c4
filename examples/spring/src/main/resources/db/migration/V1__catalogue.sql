CREATE TABLE category (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);

CREATE TABLE supplier (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);

CREATE TABLE product (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    supplier_id bigint NOT NULL REFERENCES supplier,
    name text NOT NULL UNIQUE,
    price numeric(10, 2) NOT NULL CHECK (price >= 0)
);

CREATE TABLE product_category (
    product_id bigint NOT NULL REFERENCES product,
    category_id bigint NOT NULL REFERENCES category,
    PRIMARY KEY (product_id, category_id)
);

CREATE TABLE price_change (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    product_id bigint NOT NULL REFERENCES product,
    price numeric(10, 2) NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);
