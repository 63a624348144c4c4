"""Optional: for tests that commit, in the place of TransactionTestCase. Needs `manage.py test --parallel`."""
from unittest import SkipTest

from django.db import connection
from django.test import TransactionTestCase


class RewindTestCase(TransactionTestCase):
    """For each test the worker's database is what it was after the migrations, with their data, instead of empty."""

    @classmethod
    def _fixture_setup(cls):
        cls._rewind()  # sequences, if nothing else, have moved on in the TestCases before
        super()._fixture_setup()

    def _fixture_teardown(self):
        self._rewind()  # in the place of Django's TRUNCATE

    @staticmethod
    def _rewind():
        with connection._nodb_cursor() as cursor:
            cursor.execute("SELECT testdb_rewind(%s)", [connection.settings_dict["NAME"]])

    # A test that fails: a copy of its database is kept, since the worker needs its own for the next test.
    def _callTestMethod(self, method):
        try:
            super()._callTestMethod(method)
        except SkipTest:
            raise
        except Exception:
            connection.close()
            server = connection.settings_dict
            with connection._nodb_cursor() as cursor:
                cursor.execute("SELECT testdb_clone(%s, lifetime => '2 days', label => %s)", [server["NAME"], method.__name__])
                [name] = cursor.fetchone()
            print(f'Kept for 2 days: psql "host={server["HOST"]} port={server["PORT"]} user={server["USER"]} dbname={name}"')
            raise
