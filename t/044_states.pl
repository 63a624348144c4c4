
# A library that was built with DEBUG=1 ends the server where a clone goes from one state to another that src/README does not
# draw, or by another function than it draws: mistakes that are planted are found. The drawing itself is compared with the
# code by t/000_meta.pl. What a process has in hand when it ends is given up, whether it is a session or a worker.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

plan skip_all => 'no library that was built with DEBUG=1' unless $ENV{TESTDB_DEBUG_CONFIG};
$ENV{TEMP_CONFIG} = $ENV{TESTDB_DEBUG_CONFIG};

for my $case (
	[ 'illegal-state', qr/PANIC:  database \d+ cannot go from state "(?!touched)\w+" to "touched" by \w+\(\)/ ],
	[ 'illegal-function', qr/PANIC:  database \d+ cannot go from state "\w+" to "\w+" by debug_planted\(\)/ ])
{
	my ($mistake, $message) = @$case;
	my $node =
	  TestdbCluster->new_server($mistake =~ s/-/_/r, "restart_after_crash = off\ninclude_if_exists 'point.conf'\n");
	my $admin = $node->connect_to('postgres');
	run($admin, 'CREATE DATABASE regression_template');
	run($admin, "SELECT testdb_drop(testdb_clone('regression_template'))");
	unlike(slurp_file($node->logfile), qr/PANIC/, "nothing is wrong without $mistake");

	$node->set_point("$mistake plant");
	$admin->query('SELECT pg_reload_conf()');    # the server may end before it answers
	ok(poll(sub { !defined $admin->query(q{SELECT testdb_clone('regression_template')}) }), "$mistake: a call fails");
	ok(poll(sub { $node->has_ended_itself }), "$mistake: the server ends");
	like(slurp_file($node->logfile), $message, "$mistake: the log says why");
}

my $node = TestdbCluster->new_server('owners', "testdb.spares = 1\ninclude_if_exists 'point.conf'\n");
my $admin = $node->connect_to('postgres');
run($admin, $_)
  for 'CREATE DATABASE regression_template',
  q{CREATE FUNCTION regress_audit() RETURNS text AS 'testdb', 'testdb_audit' LANGUAGE C};

# The state of the database of that OID; 'none' if testdb does not know it.
sub state_of
{
	my ($oid) = @_;
	return run($admin, "SELECT coalesce((SELECT state FROM testdb_clones() WHERE oid = $oid), 'none')");
}

# The OID of a spare, the only one.
sub spare
{
	run($admin, q{SELECT testdb_prewarm('regression_template', 1)});
	return poll(sub { run($admin, q{SELECT oid FROM testdb_clones() WHERE state = 'spare'}) });
}

# Tests that clones are in hand, and that each has an owner that lives.
sub is_owned
{
	my ($title) = @_;
	like(run($admin, 'SELECT regress_audit()'), qr/ owners ([1-9]\d*)=\1$/, $title);
	return;
}

# Tests that none is, when the workers have nothing more to do.
sub is_given_up
{
	my ($title) = @_;
	ok(poll(sub { run($admin, 'SELECT regress_audit()') =~ / owners 0=0$/ }, 30), $title);
	return;
}

# Has a process wait at a point, or none; the position in the log.
sub wait_at
{
	my ($point) = @_;
	my $position = -s $node->logfile;
	$node->use_point($point);
	return $position;
}

# How often a point was reached since then.
sub reached
{
	my ($point, $position) = @_;
	return scalar(() = slurp_file($node->logfile, $position) =~ /debug point "$point" was reached/g);
}

my $oid = spare();
my $position = wait_at('taken wait');
my $client = $node->connect_to('postgres');
$client->send(q{SELECT testdb_clone('regression_template')});
poll(sub { reached('taken', $position) });
is(state_of($oid), 'creating', 'a session has taken a spare');
is_owned('it owns it');
run($admin, 'SELECT pg_terminate_backend(' . $client->pid . ')');
poll(sub { state_of($oid) eq 'none' });
is(run($admin, "SELECT count(*) FROM pg_database WHERE oid = $oid"), 0, 'when the session is ended, it is removed');
is_given_up('nobody owns anything then');
$client->close;
wait_at('');

$oid = spare();
$position = wait_at('garbage-unwanted wait');
my $name = run($admin, "SELECT datname FROM pg_database WHERE oid = $oid");
run($admin, "COMMENT ON DATABASE $name IS 'altered'");
poll(sub { reached('garbage-unwanted', $position) });
is(state_of($oid), 'removing', 'a worker removes a spare that was altered');
is_owned('it owns it');
run($admin,
	q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'testdb: removing database %'});
poll(sub { reached('garbage-unwanted', $position) > 1 });
is(state_of($oid), 'removing', 'when that is ended, another removes it');
is_owned('and owns it');
wait_at('');
poll(sub { state_of($oid) eq 'none' });
is_given_up('nobody owns anything then');

done_testing();
