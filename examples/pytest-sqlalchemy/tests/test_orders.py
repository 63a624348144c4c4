"""A database for each test."""
import pytest
from sqlalchemy import inspect, text
from sqlalchemy.orm import Session

from shop.orders import OutOfStock, in_stock, orders_of, pay, place_order


@pytest.mark.parametrize("amount", range(1, 6))
@pytest.mark.parametrize("product", [1, 2, 3])
def test_order_takes_from_stock(db, product, amount):
    # Number 1, each time: the sequences are the template's, too.
    assert place_order(db, 1, {product: amount}) == 1
    assert in_stock(db, product) == 5 - amount


def test_nothing_is_taken_if_something_is_missing(db):
    with pytest.raises(OutOfStock):
        place_order(db, 1, {1: 1, 2: 6})
    assert in_stock(db, 1) == 5
    assert orders_of(db, 1) == []


def test_payment(db):
    assert pay(db, place_order(db, 1, {1: 1, 2: 2})) == 81


def test_two_sessions(db):
    # Both see what the other has committed: there is no transaction around the test.
    with Session(db.get_bind()) as other:
        place_order(other, 2, {3: 5})
        with pytest.raises(OutOfStock):
            place_order(db, 1, {3: 1})


def test_change_of_the_schema(db):
    db.execute(text("ALTER TABLE product ADD COLUMN weight integer NOT NULL DEFAULT 1"))
    db.commit()
    assert db.scalar(text("SELECT sum(weight) FROM product")) == 3


def test_schema_is_the_template_s(db):
    assert "weight" not in [column["name"] for column in inspect(db.connection()).get_columns("product")]
