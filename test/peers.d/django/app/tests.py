"""48 tests in twelve classes, which --parallel spreads: half of them in transactions, half with their tables truncated."""

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.utils import IntegrityError
from django.test import TestCase, TransactionTestCase

from app.models import Author, Book


class Common:
    def test_nothing_is_there(self):
        self.assertEqual(Author.objects.count(), 0)
        Author.objects.create(name="Anna")

    def test_relation(self):
        author = Author.objects.create(name="Anna")
        Book.objects.create(author=author, title="One")
        Book.objects.create(author=author, title="Two")
        self.assertEqual(author.book_set.count(), 2)

    def test_constraint(self):
        Author.objects.create(name="Anna")
        with self.assertRaises(IntegrityError), transaction.atomic():
            Author.objects.create(name="Anna")
        self.assertEqual(Author.objects.count(), 1)

    def test_user(self):
        User.objects.create_user("anna", password="secret")
        self.assertTrue(self.client.login(username="anna", password="secret"))
        self.assertTrue(connection.settings_dict["NAME"].startswith("test_djapp"))


for number in range(6):
    globals()[f"Atomic{number}"] = type(f"Atomic{number}", (Common, TestCase), {"__module__": __name__})
    globals()[f"Real{number}"] = type(f"Real{number}", (Common, TransactionTestCase), {"__module__": __name__})
