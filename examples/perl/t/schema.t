# A database for each test.
use strict;
use warnings;
use lib 'lib', 't/lib';
use Shop;
use Test::More;
use TestDatabase;

with_database 'a change of the schema' => sub {
	my ($db) = @_;
	$db->do('ALTER TABLE product ADD COLUMN weight integer NOT NULL DEFAULT 1');
	is($db->selectrow_array('SELECT sum(weight) FROM product'), 3, 'a new column');
};

with_database 'the schema is the template\'s' => sub {
	my ($db) = @_;
	is($db->selectrow_array("SELECT count(*) FROM pg_attribute WHERE attname = 'weight'"), 0, 'no such column');
};

with_database 'two sessions' => sub {
	my ($db) = @_;
	# Both see what the other has committed: there is no transaction around the test.
	my $other = connect_to($db->{pg_db});
	Shop::place_order($other, 2, 3 => 5);
	ok(!eval { Shop::place_order($db, 1, 3 => 1) }, 'the other has taken them all');
};

with_database 'payment' => sub {
	my ($db) = @_;
	is(Shop::pay($db, Shop::place_order($db, 1, 1 => 1, 2 => 2)), '81.00', 'total');
};

done_testing;
