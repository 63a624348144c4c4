"""One database for each worker, rewound before each test."""
import pytest
from sqlalchemy import text

from shop.orders import in_stock, orders_of, pay, place_order, revenue


@pytest.mark.parametrize("amount", range(1, 6))
@pytest.mark.parametrize("product, price", [(1, 30), (2, 25.5), (3, 12)])
def test_revenue(same_db, product, price, amount):
    assert revenue(same_db) == 0
    pay(same_db, place_order(same_db, 1, {product: amount}))
    assert revenue(same_db) == price * amount


@pytest.mark.parametrize("amount", range(1, 6))
async def test_revenue_async(same_async_db, amount):
    assert await same_async_db.run_sync(revenue) == 0
    order = await same_async_db.run_sync(place_order, 1, {1: amount})
    await same_async_db.run_sync(pay, order)
    assert await same_async_db.run_sync(revenue) == 30 * amount


def test_no_orders_at_first(same_db):
    assert orders_of(same_db, 1) == []
    assert in_stock(same_db, 1) == 5


def test_table_may_go(same_db):
    same_db.execute(text("DROP TABLE shipment"))
    same_db.commit()


def test_table_is_back(same_db):
    assert same_db.scalar(text("SELECT count(*) FROM shipment")) == 0


async def test_table_may_go_async(same_async_db):
    await same_async_db.execute(text("DROP TABLE shipment"))
    await same_async_db.commit()


async def test_table_is_back_async(same_async_db):
    assert await same_async_db.scalar(text("SELECT count(*) FROM shipment")) == 0
