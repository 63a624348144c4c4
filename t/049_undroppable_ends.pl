
# Whatever a clone's owner or a superuser does to it, its row, settings or content, it is dropped with its session, when its time is
# over, by testdb_drop_all, and after a restart. See t/035_undroppable.pl.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Test::More;
use TestdbEnds;
use TestdbSpoil;
use TestdbTest;

set_up();

# The roads to a clone's end: the terms of the clones, who makes them if it is not the administrator, and what is then done.
my @roads = (
	[ 'session', "scope => 'session'", 'regress_user', sub { $_[0]->close } ],
	[
		'lifetime',
		"lifetime => '1 hour'",
		'',
		sub {
			run($admin,
				"SELECT testdb_keep(name, '1 second') FROM testdb_clones WHERE expires_at > now() + interval '1 minute'"
			);
		}
	],
	[
		'testdb_drop_all',
		'', '',
		sub {
			my ($client, %made) = @_;
			# Others' are not its.
			run($admin, 'ALTER DATABASE ' . $made{$_}[0] . ' OWNER TO CURRENT_USER') for grep { /^owner/ } keys %made;
			my $n = $admin->query('SELECT testdb_drop_all()');
			is($n, keys(%made) + @children, 'testdb_drop_all counts them') or diag $admin->told;
		}
	],
	[
		'restart',
		"scope => 'session'",
		'',
		sub {
			$node->stop('immediate');
			$node->start;
			$admin = $node->session('postgres');
		}
	]);

end_all(@roads);
$node->stop;
done_testing();
