"""One database for each worker, rewound before each test."""
import pytest

from shop import in_stock, orders_of, pay, place_order, revenue


@pytest.mark.parametrize("amount", range(1, 6))
@pytest.mark.parametrize("product, price", [(1, 30), (2, 25.5), (3, 12)])
def test_revenue(same_db, product, price, amount):
    assert revenue(same_db) == 0
    pay(same_db, place_order(same_db, 1, {product: amount}))
    assert revenue(same_db) == price * amount


def test_no_orders_at_first(same_db):
    assert orders_of(same_db, 1) == []
    assert in_stock(same_db, 1) == 5


def test_table_may_go(same_db):
    same_db.execute("DROP TABLE shipment")


def test_table_is_back(same_db):
    assert same_db.execute("SELECT count(*) FROM shipment").fetchone() == (0,)
