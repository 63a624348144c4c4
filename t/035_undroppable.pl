
# Whatever a clone's owner or a superuser does to it, its row, settings or content, it can be dropped by testdb_drop; it can be reset;
# and where it is recycled, the next life has none of it. Other ends are in t/049_undroppable_ends.pl; what a live process holds is in
# t/045_in_the_way.pl.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Test::More;
use TestdbEnds;
use TestdbSpoil;

set_up();

# The roads to a clone's end: the terms of the clones, who makes them if it is not the administrator, and what is then done.
my @roads = (
	[
		'testdb_drop',
		'', '',
		sub {
			my ($client, %made) = @_;
			is(call('testdb_drop', $made{$_}[0]), 't', "testdb_drop: $_") or diag $admin->told for sort keys %made;
		}
	],
	[
		"testdb_drop by its owner",
		'',
		'regress_user',
		sub {
			my ($client, %made) = @_;
			for my $what (sort keys %made)
			{
				my $own = $what !~ /^owner/;
				my $done = ($own ? $client : $admin)->query('SELECT testdb_drop(' . literal($made{$what}[0]) . ')');
				is($done, 't', "testdb_drop by its owner: $what") or diag $client->told;
			}
		}
	],
	[ 'testdb_reset', '', '', sub { my ($client, %made) = @_; reset_all(%made) } ]);

end_all(@roads);
$node->stop;
done_testing();
