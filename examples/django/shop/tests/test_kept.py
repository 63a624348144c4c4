"""A test that fails, to see what is left of it: SHOW_FAILURE=1 ./manage.py test --parallel 4 shop.tests.test_kept"""
import os
from unittest import skipUnless

from shop.models import Customer, Order, Product

from .testing import RewindTestCase


@skipUnless("SHOW_FAILURE" in os.environ, "fails on purpose")
class KeptTests(RewindTestCase):
    def test_fails(self):
        Order.place(Customer.objects.get(), {Product.objects.get(name="kettle"): 1})
        self.assertEqual(Order.objects.count(), 0)


class OtherTests(RewindTestCase):
    """Django takes as many workers as there are classes: with a single one there are none."""

    def test_passes(self):
        self.assertEqual(Order.objects.count(), 0)
