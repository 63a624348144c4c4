
# What the tests share that stop testdb at its debug points, or end processes there: a server with a template, what is done to clones,
# and what must hold afterwards.

package TestdbPoints;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

our @EXPORT =
  qw($template $node $admin $number $nnames %held new_cluster server_is_gone start shut_down restart clone write_to prewarm
  make_stale_spares settle drop create_served drop_served is_right wait_for_log hold_at stop);

our $template = 'regression_template';
our $node;
our $admin;         # a session of the superuser in the database postgres
our %held;          # clones that are handed out, and a number that is in them
our $number = 0;    # of rows in the template's second table
our $nnames = 0;    # that were given to clones
my $amcheck = has_contrib('amcheck');
my $checksum;       # of the template's first table
my @complaints;     # entries of the log that were not provoked

# A cluster with these settings and a template, for which statements are executed before that is made.
sub new_cluster
{
	my ($name, $settings, $before, %params) = @_;
	$node = TestdbCluster->new_server(
		$name, qq{
restart_after_crash = off
full_page_writes = on
max_prepared_transactions = 2
testdb.recycle_statement = 'SELECT \$1'
include_if_exists 'point.conf'
$settings
}, %params);
	$admin = $node->connect_to('postgres');
	run($admin, $_) for @{ $before || [] };
	run($admin, "CREATE DATABASE $template");
	my $client = $node->connect_to($template);
	run($client, $_)
	  for $amcheck ? 'CREATE EXTENSION amcheck' : (),
	  q{CREATE TABLE base AS SELECT i, md5(i::text) AS t FROM generate_series(1, 2000) i},
	  'CREATE INDEX ON base (i)', 'CREATE TABLE changed (i int)';
	$checksum = $client->query('SELECT md5(string_agg(i || t, NULL ORDER BY i)) FROM base');
	$client->close;
	%held = ();
	$number = 0;
	$node->set_point('');
	look(qr/LOG:  skipping missing configuration file/);
	return;
}

# Has the server ended?
sub server_is_gone
{
	return $node->has_ended_itself;
}

# Starts the server.
sub start
{
	$node->start;
	$admin = $node->connect_to('postgres');
	return;
}

# Stops the server, and looks at what it says then.
sub shut_down
{
	$admin->close;
	$node->stop;
	look(qr/FATAL:  terminating (background worker "testdb worker"|connection) due to administrator command/,
		qr/LOG:  could not send data to client: Broken pipe/);
	return;
}

# A restart leaves no spares.
sub restart
{
	shut_down();
	start();
	poll(sub { ($admin->query('SELECT count(*) FROM testdb_clones()') // 1) eq '0' }) or die 'leftovers stay';
	return;
}

# Clones, and writes something into the clone; its name. Undef if the call fails, as it may when a process ends.
sub clone
{
	my ($arguments) = @_;
	my $name = $admin->query("SELECT testdb_clone('$template'" . ($arguments // '') . ')') or return undef;
	$held{$name} = $number;
	return $name;
}

sub write_to
{
	my ($name) = @_;
	my $client = $node->connect_to($name);
	run($client, $_)
	  for 'CREATE TABLE own AS SELECT * FROM base', 'UPDATE base SET t = t WHERE i < 500', 'VACUUM FULL pg_class';
	$node->leave($client, $admin);
	return;
}

sub prewarm
{
	my ($n) = @_;
	return $admin->do("SELECT testdb_prewarm('$template', $n)");
}

# Spares, and a template that has changed since.
sub make_stale_spares
{
	prewarm(2);
	my $client = $node->connect_to($template);
	run($client, "INSERT INTO changed VALUES ($number)");
	$number++;
	$client->close;
	return;
}

# Until nothing more is going to happen by itself.
sub settle
{
	return poll(
		sub {
			return 1 if server_is_gone();
			($admin->query(q{SELECT count(*) FROM testdb_clones() WHERE state NOT IN ('leased', 'spare')}) // 1) eq '0';
		},
		30);
}

sub drop
{
	my ($name) = @_;
	my $done = $admin->do("SELECT testdb_drop('$name')");
	# Whether it was dropped before the process ended, or not, is as it may be.
	$held{$name} = $done ? 'gone' : 'unknown';
	return $done;
}

# The same by CREATE DATABASE and DROP DATABASE, served by testdb. Where a worker fails PostgreSQL does it itself: what it makes
# is none of testdb's.
sub create_served
{
	my $name = 'regression_served_' . ++$nnames;
	$admin->do('SET testdb.serve_create_database = on');
	my $done = $admin->do("CREATE DATABASE $name TEMPLATE $template");
	$admin->do('RESET testdb.serve_create_database');
	if ($done && !$admin->query("SELECT count(*) FROM testdb_clones WHERE name = '$name'"))
	{
		$admin->do("DROP DATABASE $name");
		return undef;
	}
	$held{$name} = $done ? $number : 'unknown';
	return $done ? $name : undef;
}

sub drop_served
{
	my ($name) = @_;
	$admin->do('SET testdb.serve_create_database = on');
	my $done = $admin->do("DROP DATABASE $name");
	$admin->do('RESET testdb.serve_create_database');
	$held{$name} = $done ? 'gone' : 'unknown';
	return $done;
}

# Where leases, directories and databases don't match at this moment.
sub mismatches
{
	my @wrong;
	my $leases = join ' ', sort map { m{/(\d+)$} } glob $node->data_dir . '/pg_testdb/clones/*';
	my $known = join ' ', sort map { $_->[0] } $admin->rows('SELECT oid FROM testdb_clones()');
	push @wrong, "leases on disk: $leases; known: $known" if $leases ne $known;
	my $directories = join ' ', sort map { m{/(\d+)$} } glob $node->data_dir . '/base/*';
	my $rows = join ' ', sort map { $_->[0] } $admin->rows('SELECT oid FROM pg_database');
	push @wrong, "directories in base: $directories; databases: $rows" if $directories ne $rows;
	my $strange = join ' ', map { $_->[0] } $admin->rows(
		q{SELECT datname FROM pg_database LEFT JOIN testdb_clones() c USING (oid) WHERE datconnlimit = -2
		OR (c.oid IS NULL AND datname NOT IN ('postgres', 'template0', 'template1', '} . $template . q{'))});
	push @wrong, "databases that should not be: $strange" if $strange ne '';
	return @wrong;
}

# What keeps a name that no database of testdb's has from being used by PostgreSQL's own CREATE DATABASE.
sub not_free
{
	my ($name) = @_;
	return map { $admin->do($_) ? () : "$_: " . $admin->message } "CREATE DATABASE $name TEMPLATE template0",
	  "DROP DATABASE $name";
}

# What must hold after that; returns what does not.
sub check
{
	my @wrong;
	settle()
	  or push @wrong, 'not settled: ' . join '; ',
	  map { join ' ', @$_ }
	  $admin->rows(q{SELECT oid, state FROM testdb_clones() WHERE state NOT IN ('leased', 'spare')});

	# A worker that was started again may have begun to make a spare just now.
	my @mismatches;
	poll(sub { return !(@mismatches = mismatches()) }, 10) or push @wrong, @mismatches;

	my %is = map { $_->[0] => 1 }
	  $admin->rows(q{SELECT datname FROM testdb_clones() JOIN pg_database USING (oid) WHERE state = 'leased'});
	for my $name (sort keys %held)
	{
		my $what = delete $held{$name};
		push @wrong, not_free($name) if !$is{$name} && $name =~ /_served_/;
		push @wrong, "$name is lost" if !$is{$name} && $what !~ /gone|unknown/;
		push @wrong, "$name is still there" if $is{$name} && $what eq 'gone';
	}
	# One that nobody was told of: a name that its caller did not live to see.
	for my $name (sort keys %is)
	{
		my $client = $node->connect_to($name);
		my $sum = $client->query('SELECT md5(string_agg(i || t, NULL ORDER BY i)) FROM base') // $client->message;
		push @wrong, "$name: table base: $sum" if $sum ne $checksum;
		push @wrong, amcheck($name);
		$node->leave($client, $admin);
		$admin->do("SELECT testdb_drop('$name')") or push @wrong, "dropping $name: " . $admin->message;
	}

	# And it goes on.
	my $name = clone();
	unless ($name)
	{
		push @wrong, 'no new clone: ' . $admin->message;
		return @wrong;
	}
	my $client = $node->connect_to($name);
	my $state =
	  $client->query('SELECT md5(string_agg(i || t, NULL ORDER BY i)), (SELECT count(*) FROM changed) FROM base')
	  // $client->message;
	push @wrong, "new clone: $state" if $state ne "$checksum|$number";
	$node->leave($client, $admin);
	drop($name) or push @wrong, "dropping the new clone: " . $admin->message;
	delete $held{$name};
	settle() or push @wrong, 'not settled at the end';
	return @wrong;
}

sub amcheck
{
	my ($name) = @_;
	return () unless $amcheck;
	my ($out, $err) = run_command(
		[
			$node->installed_command('pg_amcheck'),
			'-h', $node->host, '-p', $node->port, '--heapallindexed', '-d', $name
		]);
	# A session of it that is still about to end would be terminated with what comes next, and the log would say so.
	poll(
		sub {
			!$admin->query(
				"SELECT count(*) FROM pg_stat_activity WHERE datname = '$name' AND application_name <> 'testdb test'");
		}) or die "pg_amcheck's sessions do not end";
	return "$out$err" eq '' ? () : "pg_amcheck of $name: $out$err";
}

# Looks at the entries of the server's log since the last call that say more than that a process has ended. Those that match none of
# the patterns, for what was provoked, are remembered for is_right().
sub look
{
	my (@provoked) = @_;
	push @complaints,
	  $node->complaints(
		qr/PANIC|TRAP|could not|invalid page|missing|corrupt|WARNING|may be left|cannot|unexpected|ERROR:|FATAL:/i,
		@provoked);
	return;
}

# Tests that all is right after something was done whose entries in the log match one of these patterns.
sub is_right
{
	my ($title, @provoked) = @_;
	my @wrong = check();
	look(@provoked);
	push @wrong, map { "log: $_" } splice @complaints;
	return ok(!@wrong, "$title: nothing is wrong then") || diag join "\n", @wrong;
}

# Waits until the log says something after this position.
sub wait_for_log
{
	my ($pattern, $position) = @_;
	poll(sub { slurp_file($node->logfile, $position) =~ $pattern }) or die "the log does not say $pattern";
	return;
}

# Sends a statement, in a session that is returned, and waits until that has made a process come to a point, which holds it.
sub hold_at
{
	my ($point, $statement) = @_;
	my $position = -s $node->logfile;
	my $client = $node->connect_to('postgres');
	$node->use_point("$point wait");
	$client->send($statement);
	wait_for_log(qr/debug point "$point" was reached/, $position);
	return $client;
}

# Ends the work with a cluster.
sub stop
{
  SKIP:
	{
		skip 'PostgreSQL has no amcheck', 1 unless $amcheck;
		my @wrong = amcheck($template);
		is("@wrong", '', 'the template is in order');
	}
	$admin->close;
	$node->stop;
	return;
}

1;
