
# With wal_level above minimal, whoever follows WAL gets the same databases: a standby, also one that crashes, a base backup
# that is taken meanwhile, and a server that is recovered from an archive.

use strict;
use warnings;

use FindBin;
use POSIX ();
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $template = 'regression_template';

my $node = TestdbCluster->new_server(
	'primary', q{
testdb.spares = 2
wal_log_hints = on
wal_keep_size = 512MB
},
	allows_streaming => 1,
	extra => ['-k']);
my $admin = $node->connect_to('postgres');

sub clone
{
	my (@arguments) = @_;
	my $name = $admin->query("SELECT testdb_clone('$template'" . join('', map { ", '$_'" } @arguments) . ')');
	die $admin->message unless $name;
	return $name;
}

run($admin, $_) for "CREATE DATABASE $template", 'CREATE ROLE regress_owner';
my $amcheck = has_contrib('amcheck');
$node->in_database(
	$template,
	$amcheck ? 'CREATE EXTENSION amcheck' : (),
	'CREATE TABLE base AS SELECT i, md5(i::text) AS t FROM generate_series(1, 3000) i',
	'CREATE INDEX ON base (t)',
	'CREATE UNLOGGED TABLE fleeting AS SELECT 1 AS i',
	'CREATE SEQUENCE counter',
	'CREATE TABLE owned (i serial PRIMARY KEY)',
	'ALTER TABLE owned OWNER TO regress_owner');

# What tests do to their clones.
my @kinds = (
	[ 'UPDATE base SET t = t || i WHERE i % 3 = 0', 'CHECKPOINT' ],
	[ 'VACUUM FULL base', 'INSERT INTO base VALUES (0, 0)' ],
	[ 'VACUUM FULL pg_class', 'CREATE TABLE made AS SELECT * FROM base' ],
	[ 'DROP TABLE base', 'CHECKPOINT' ],
	[ 'TRUNCATE base', 'INSERT INTO base SELECT i, i FROM generate_series(1, 500) i' ],
	[ 'REINDEX TABLE pg_attribute', q{SELECT nextval('counter')} ],
	[ 'DELETE FROM base WHERE i % 2 = 0', 'VACUUM base' ],
	[ 'SELECT lo_create(777)', 'INSERT INTO fleeting VALUES (2)' ],
	['SELECT sum(i) FROM base'],
	[]);

# And what comes into the template meanwhile.
my @changes = (
	['INSERT INTO base VALUES (-1, 1)'],
	['CREATE TABLE IF NOT EXISTS later AS SELECT 1 AS i'],
	['DROP TABLE IF EXISTS later'],
	[q{SELECT nextval('counter')}],
	['VACUUM FULL base'], ['VACUUM (FREEZE) base']);

# Several lives, of which the given number goes on at the end, 1 by default. The later a clone, the more former lives its directory has had.
my $nlives = 0;

sub live
{
	my ($rounds, $at_end) = (@_, 1);
	my @kept;
	for my $round (1 .. $rounds)
	{
		my @names = map { $_ == 1 && $round % 3 == 0 ? clone("regression_named_" . ++$nlives) : clone() } 1 .. 3;
		for my $name (@names)
		{
			my $client = $node->connect_to($name);
			run($client, $_) for @{ $kinds[ rand @kinds ] };
			$client->close;
		}
		run($admin, "SELECT testdb_reset('$names[2]')") if $round % 4 == 0;
		push @kept, @names;
		$node->in_database($template, @{ $changes[ rand @changes ] }) if $round % 3 == 1;
		run($admin, "SELECT testdb_drop('$_')") for splice @kept, 0, @kept - ($round == $rounds ? $at_end : 1);
	}
	return @kept;
}

# Every database of the server that follows is what it is on the primary. Unlogged tables are empty there.
sub compare
{
	my ($what, $other) = @_;
	poll(sub { !$admin->query('SELECT sum(recycling) FROM testdb_templates') }) or die 'recycling does not end';
	# Spares can't be looked at on the primary. No others are created meanwhile.
	run($admin, "SELECT testdb_template_set('$template', 0)");
	poll(sub { run($admin, q{SELECT count(*) FROM testdb_clones() WHERE state = 'creating'}) == 0 });
	my @spares = map { clone() } 1 .. $admin->query('SELECT sum(spares) FROM testdb_templates');
	run($admin, 'CHECKPOINT');
	my $end = $admin->query('SELECT pg_switch_wal()');
	$other->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() >= '$end'")
	  or die "$what: does not get as far as $end";
	my $observer = $other->connect_to('postgres');
	my $sql =
	  q{SELECT oid, datname, datdba, datconnlimit, datfrozenxid FROM pg_database WHERE datname LIKE 'regression%'};
	my @names = sort map { $_->[0] } $admin->rows('SELECT name FROM testdb_clones');
	my $rows = join "\n", sort map { join ' ', @$_ } $admin->rows($sql);
	is(join("\n", sort map { join ' ', @$_ } $observer->rows($sql)), $rows, "$what: the rows of pg_database");
	is( join(' ', sort map { m{/(\d+)$} } glob $other->data_dir . '/base/*'),
		join(' ', sort map { $_->[0] } $observer->rows('SELECT oid FROM pg_database')),
		"$what: each database has its directory, and no other is left");

	is_same(logged_dump($other, $_), logged_dump($node, $_), "$what: contents of $_") for @names;
  SKIP:
	{
		skip 'PostgreSQL has no amcheck', 1 unless $amcheck;
		my ($out, $err) = run_command(
			[
				$node->installed_command('pg_amcheck'),
				'-h', $other->host, '-p', $other->port, '--heapallindexed', map { ('-d', $_) } $template, @names
			]);
		is("$out$err", '', "$what: pg_amcheck");
	}
	run($admin, "SELECT testdb_template_set('$template', NULL)");
	run($admin, "SELECT testdb_drop('$_')") for @spares;
	return;
}

# Like is(), for long texts: says where they begin to differ.
sub is_same
{
	my ($is, $expected, $what) = @_;
	return if ok($is eq $expected, $what);
	my @is = split /\n/, $is;
	my @expected = split /\n/, $expected;
	my ($first) = grep { ($is[$_] // 'the end') ne ($expected[$_] // 'the end') } 0 .. @expected;
	diag "line $first: ", $is[$first] // 'the end', "\nexpected: ", $expected[$first] // 'the end';
	return;
}

# pg_dump, without what standbys don't have: unlogged tables' rows, and where a sequence stands, since WAL runs ahead of that.
sub logged_dump
{
	my ($server, $name) = @_;
	my ($out, $err) = run_command(
		[ 'pg_dump', '-h', $server->host, '-p', $server->port, '--blobs', '--no-unlogged-table-data', $name ]);
	die "pg_dump of $name: $err" if $err ne '';
	$out =~ s/^\\(un)?restrict .*$//mg;
	$out =~ s/^SELECT pg_catalog\.setval.*$//mg;
	return $out;
}

my $seed = $ENV{TESTDB_STANDBY_SEED} || time;
note "TESTDB_STANDBY_SEED=$seed";
srand $seed;

# What clones are made by at this moment: the answer, and why.
sub method
{
	my $name = clone();
	my $method = $admin->query(q{SELECT method || coalesce(': ' || reason, '') FROM testdb_templates});
	run($admin, "SELECT testdb_drop('$name')");
	return $method;
}

# Nobody follows: clones are made from the snapshot and recycled, while a base backup begins. There are spares.
live(6);
is(method(), 'native', 'as long as nobody follows, the native method is used');
cmp_ok($admin->query('SELECT sum(recycled) FROM testdb_stats'), '>', 3, 'and clones are recycled');
my $pid = fork // die "fork: $!";
if ($pid == 0)
{
	$node->backup('backup', backup_options => [ '--max-rate', '24M' ]);
	POSIX::_exit(0);
}
# Core's WAL_LOG strategy has a gap: if the backup's checkpoint comes between the record that makes a database's directory and
# the next, and the database is dropped before the backup has copied it, recovery ends with "could not open file".
run($admin, 'SET testdb.method = file_copy');
my $rounds = 0;
while (waitpid($pid, POSIX::WNOHANG) == 0)
{
	live(1, 0);
	$rounds++;
}
is($?, 0, 'a base backup succeeds');
run($admin, 'RESET testdb.method');
cmp_ok($rounds, '>', 0, 'and clones come and go meanwhile');
my $standby = TestdbCluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
compare('standby', $standby);

# Now it follows.
is(method(), 'wal_log: WAL is being sent to a standby', 'while a standby follows, CREATE DATABASE is used');
my @kept = live(4, 2);
compare('standby that follows', $standby);
my $reader = $standby->connect_to($kept[0]);
is($reader->query('SELECT 1'), 1, 'a clone can be read on the standby');
run($admin, "SELECT testdb_drop('$kept[0]')");
ok(poll(sub { !$reader->do('SELECT 1') }), 'until it is dropped');

# It crashes, more than once, and has to go back to its last restart point.
for my $crash (1 .. 2)
{
	live(2);
	$node->wait_for_catchup($standby);
	$standby->safe_psql('postgres', 'CHECKPOINT') if $crash == 2;
	live(2);
	$node->wait_for_catchup($standby) if $crash == 2;
	$standby->stop('immediate');
	$standby->start;
	compare("standby after crash $crash", $standby);
}

# It goes away, and has to catch up with what was done by the native method in between.
$standby->stop;
poll(sub { !$admin->query('SELECT count(*) FROM pg_stat_replication') }) or die 'the WAL sender stays';
run($admin, "SELECT testdb_drop(name) FROM testdb_clones");
live(1);
my $recycled = $admin->query('SELECT sum(recycled) FROM testdb_stats');
live(6);
is(method(), 'native', 'when it has gone, the native method is used again');
cmp_ok($admin->query('SELECT sum(recycled) FROM testdb_stats'), '>', $recycled, 'and clones are recycled');
$standby->start;
compare('standby that has caught up', $standby);

# Archiving, and a slot, stand for somebody who will follow.
$standby->stop;
poll(sub { !$admin->query('SELECT count(*) FROM pg_stat_replication') }) or die 'the WAL sender stays';
run($admin, q{SELECT pg_create_physical_replication_slot('regress_slot', true)});
is(method(), 'wal_log: WAL is kept for a standby, by a replication slot', 'a slot');
run($admin, q{SELECT pg_drop_replication_slot('regress_slot')});
is(method(), 'native', 'no slot');
$admin->close;
$node->enable_archiving;
$node->restart;
$admin = $node->connect_to('postgres');
is(method(), 'wal_log: WAL is archived', 'archiving');
$node->backup('archived_backup');
live(2);
my $restored = TestdbCluster->new('restored');
$restored->init_from_backup($node, 'archived_backup', has_restoring => 1);
$restored->start;
compare('server that is restored from the archive', $restored);
$restored->promote;
my ($left) = $admin->rows('SELECT name FROM testdb_clones');
my $promoted = $restored->connect_to($left->[0]);
ok($promoted->do('CREATE TABLE after_promotion (i int)'), 'when it is promoted its clones can be written to')
  or diag $promoted->message;
$promoted->close;

for my $server ($node, $standby, $restored)
{
	my $complaints = join "\n", grep {
		/PANIC|TRAP|could not|invalid page|corrupt|WARNING/
		  && !
		  /could not (send|receive) data|archive command|restore command|WAL stream|could not connect to the primary/
		  && !/HINT:/
		  # Redo of a database that has gone from disk already.
		  && !/WARNING:  (could not open directory "base|some useless files may be left)/
		  # A base backup reads a file that is just growing, between two blocks of 4 kB.
		  && !/could not verify checksum in file .* read buffer size \d+ and page size 8192 differ/
		  # DELETE, then VACUUM, during a base backup: redo of the former clears a bit in the visibility map's page that the
		  # latter has left in the backup.
		  && !/xlog min recovery request .* is past current point/
	} split /\n/, slurp_file($server->logfile);
	is($complaints, '', 'the log of ' . $server->name . ' has no complaint');
}
$restored->stop;
$node->stop;
for my $server ($node, $restored, $standby)
{
	my ($out, $err) =
	  run_command([ $node->installed_command('pg_checksums'), '--check', '-D', $server->data_dir ]);
	like($out, qr/Bad checksums:  0$/m, 'pg_checksums finds nothing in ' . $server->name) or diag $out, $err;
}

done_testing();
