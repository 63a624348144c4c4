
# What CREATE DATABASE and DROP DATABASE leave to others, where testdb serves them: nothing of a dropped template stays.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbHold qw(told);
use TestdbTest;

my $node = new_server('shared', "testdb.serve_create_database = on\ntestdb.spares = 3\ntestdb.workers = 3");
my $admin = session($node, 'postgres');
my $snapshots = $node->data_dir . '/pg_testdb/snapshots';

# A template with a table, by CREATE DATABASE; its OID.
sub make_template
{
	my ($name, $options) = @_;
	run($admin, "CREATE DATABASE $name " . ($options // ''));
	my $inside = session($node, $name);
	run($inside, 'CREATE TABLE t AS SELECT generate_series(1, 100) AS i');
	$inside->close;
	return oid_of($admin, $name);
}

# Makes clones of a template until there are so many spares of it.
sub make_spares
{
	my ($name, $count) = @_;
	my @clones;
	push @clones, run($admin, "SELECT testdb_clone('$name')") for 1 .. 4;
	run($admin, "SELECT testdb_drop('$_')") for @clones;
	poll(
		sub {
			run($admin, "SELECT count(*) FROM testdb_clones() WHERE template_name = '$name' AND state = 'spare'") >= $count;
		}) or die "no spares of $name";
	return;
}

# All databases whose names begin so.
sub named { return run($admin, "SELECT coalesce(string_agg(datname, ' ' ORDER BY datname), '') FROM pg_database WHERE datname LIKE '$_[0]%'") }

# A template is dropped: what has been made ahead of it is gone when DROP DATABASE returns, and so is its snapshot.
for my $case ([ 'made by core', 'STRATEGY wal_log', 'off', '' ], [ 'made by testdb', '', 'on', '' ], [ 'not served', '', 'off', '' ],
	[ 'with force', '', 'on', ' WITH (FORCE)' ])
{
	my ($title, $options, $mode, $how) = @$case;
	my $oid = do {
		run($admin, "SET testdb.serve_create_database = " . ($title eq 'made by core' ? 'off' : 'on'));
		make_template('regression_gone', $options);
	};
	run($admin, "SET testdb.serve_create_database = $mode");
	make_spares('regression_gone', 3);
	my $kept = run($admin, q{SELECT testdb_clone('regression_gone')});
	ok(-d "$snapshots/$oid", "$title: there is a snapshot");
	ok($admin->do("DROP DATABASE regression_gone$how"), "$title: dropped") or diag told($admin);
	is(named('regression_gone'), $kept, "$title: only the clone that somebody has is left");
	is(run($admin, q{SELECT string_agg(state, ' ') FROM testdb_clones() WHERE template_name = 'regression_gone'}), 'leased', "$title: that is what testdb knows");
	ok(!-e "$snapshots/$oid", "$title: no snapshot");
	is(session($node, $kept)->query('SELECT count(*) FROM t'), 100, "$title: the clone is whole");
	run($admin, "SELECT testdb_drop('$kept')");
	is(named('regression_gone'), '', "$title: its clones go for good");
}
run($admin, 'SET testdb.serve_create_database = on');

# One that can't go in time does not keep the command for ever: a cancel ends the wait, and nothing else.
{
	make_template('regression_gone');
	make_spares('regression_gone', 3);
	my $holder = session($node, 'postgres');
	my $spare = run($admin, q{
		SELECT d.datname FROM testdb_clones() c JOIN pg_database d USING (oid) WHERE c.state = 'spare' AND c.template_name = 'regression_gone' LIMIT 1});
	run($holder, "BEGIN; ALTER DATABASE $spare SET work_mem = '1MB'");
	my $dropper = session($node, 'postgres');
	my $pid = run($dropper, 'SELECT pg_backend_pid()');
	$dropper->send('DROP DATABASE regression_gone');
	poll(sub { run($admin, "SELECT count(*) FROM testdb_clones() WHERE template_name = 'regression_gone'") == 1 }) or die 'more than one stays';
	ok(!$dropper->readable(0), 'held: the command waits');
	run($admin, "SELECT pg_cancel_backend($pid)");
	ok(!$dropper->result->{error}, 'held: no error') or diag told($dropper);
	is(named('regression_gone'), $spare, 'held: all others have gone');
	is(run($dropper, 'SELECT 1'), 1, 'held: the next command is not canceled');
	run($holder, 'ROLLBACK');
	poll(sub { named('regression_gone') eq '' }) or die 'the spare stays';
}

$node->stop;
done_testing();
