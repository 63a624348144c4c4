"""A test that fails, to see what is left of it. It needs to be asked for: SHOW_FAILURE=1 pytest tests/test_kept.py"""
import os

import pytest

from shop.orders import orders_of, place_order

pytestmark = pytest.mark.skipif("SHOW_FAILURE" not in os.environ, reason="fails on purpose")


def test_fails(db):
    place_order(db, 1, {1: 1})
    assert orders_of(db, 1) == []
