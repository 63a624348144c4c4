"""A database for each test, by asyncpg."""
import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from shop.orders import OutOfStock, in_stock, pay, place_order


@pytest.mark.parametrize("amount", range(1, 6))
async def test_order_takes_from_stock(async_db, amount):
    assert await async_db.run_sync(place_order, 1, {1: amount}) == 1
    assert await async_db.run_sync(in_stock, 1) == 5 - amount


async def test_payment(async_db):
    order = await async_db.run_sync(place_order, 1, {1: 1, 2: 2})
    assert await async_db.run_sync(pay, order) == 81


async def test_two_at_a_time(async_db):
    async def order():
        async with AsyncSession(async_db.bind) as session:
            return await session.run_sync(place_order, 1, {3: 3})

    outcomes = await asyncio.gather(order(), order(), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {int, OutOfStock}
    assert await async_db.run_sync(in_stock, 3) == 2
