# A database for each test.
use strict;
use warnings;
use lib 'lib', 't/lib';
use Shop;
use Test::More;
use TestDatabase;

foreach my $amount (1 .. 5) {
	with_database "$amount taken from stock" => sub {
		my ($db) = @_;
		# Number 1, each time: the sequences are the template's, too.
		is(Shop::place_order($db, 1, 2 => $amount), 1, 'first order');
		is(Shop::in_stock($db, 2), 5 - $amount, 'in stock');
	};
}

with_database 'nothing is taken if something is missing' => sub {
	my ($db) = @_;
	ok(!eval { Shop::place_order($db, 1, 2 => 6) }, 'refused');
	is($@, "out of stock: 2\n", 'why');
	is_deeply(Shop::orders_of($db, 1), [], 'no order');
};

done_testing;
