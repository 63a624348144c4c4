
# Ends processes at each step of cloning, dropping, recycling and taking a snapshot: by kill -9, by a FATAL error, by an
# error. Afterwards there must be what there should be, and nothing else. At some it is held instead, while something else
# happens that would hardly ever happen just then. Needs a library that was built with DEBUG=1;
# test/run makes one for this test.
#
#   TESTDB_POINTS        only these points
#   TESTDB_POINT_WAYS    in how many ways processes end at a point of a case: 3, or in a short run 1 in turn, and at every other
#                        point to which another case comes as well, none
#   TESTDB_POINT_TURN    repeats the choice of another short run

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbHold qw(kill_server start_again);
use TestdbTest;
use Time::HiRes qw(usleep);

plan skip_all => 'no library that was built with DEBUG=1' unless $ENV{TESTDB_DEBUG_CONFIG};
$ENV{TEMP_CONFIG} = $ENV{TESTDB_DEBUG_CONFIG};

my $template = 'regression_template';
my $amcheck = has_contrib('amcheck');
my ($node, $admin, $checksum);
my %held;          # clones that are handed out, and a number that is in them
my $number = 0;    # of rows in the template's second table
my $log_position = 0;
my $nnames = 0;

# A cluster with these settings and a template, for which statements are executed before that is made.
sub new_cluster
{
	my ($name, $settings, $before, %params) = @_;
	$node = new_server(
		$name, qq{
restart_after_crash = off
full_page_writes = on
max_prepared_transactions = 2
testdb.recycle_statement = 'SELECT \$1'
include_if_exists 'point.conf'
$settings
}, %params);
	$admin = connect_to($node, 'postgres');
	run($admin, $_) for @{ $before || [] };
	run($admin, "CREATE DATABASE $template");
	my $client = connect_to($node, $template);
	run($client, $_)
	  for $amcheck ? 'CREATE EXTENSION amcheck' : (),
	  q{CREATE TABLE base AS SELECT i, md5(i::text) AS t FROM generate_series(1, 2000) i},
	  'CREATE INDEX ON base (i)', 'CREATE TABLE changed (i int)';
	$checksum = $client->query('SELECT md5(string_agg(i || t, NULL ORDER BY i)) FROM base');
	$client->close;
	%held = ();
	$number = 0;
	$log_position = 0;
	return;
}

# Where processes fail from now on: "name kill", or nowhere. With a server that runs, idle workers have heard of it when
# they are next asked for something.
sub set_point
{
	my ($point) = @_;
	open my $out, '>', $node->data_dir . '/point.conf' or die $!;
	print $out "testdb.debug_point = '$point'\n";
	close $out;
	return;
}

sub reload
{
	my ($point) = @_;
	set_point($point);
	run($admin, 'SELECT pg_reload_conf()');
	poll(sub { ($admin->query('SHOW testdb.debug_point') // '') eq $point }) or die 'the settings are not reloaded';
	# The postmaster accepts a connection when it has told all processes: this one may be the first.
	connect_to($node, 'postgres')->close;
	return;
}

sub server_is_gone
{
	return !-e $node->data_dir . '/postmaster.pid';
}

sub start
{
	$node->_update_pid(0);
	$node->start;
	$admin = connect_to($node, 'postgres');
	return;
}

# A restart leaves no spares.
sub restart
{
	$admin->close;
	$node->restart;
	$admin = connect_to($node, 'postgres');
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
	my $client = connect_to($node, $name);
	run($client, $_)
	  for 'CREATE TABLE own AS SELECT * FROM base', 'UPDATE base SET t = t WHERE i < 500', 'VACUUM FULL pg_class';
	$client->close;
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
	my $client = connect_to($node, $template);
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

# What is prepared, and what is done then, with the points that this comes to.
my @cases = (
	{
		name => 'first clone',
		prepare => sub { restart() },
		act => sub { clone() },
		points => [
			qw(snapshot-cleared snapshot-manifest snapshot-files snapshot-entered clone-entered clone-recorded clone-row
			  clone-files clone-complete clone-held clone-leased)
		],
		logged => [qw(clone-logged clone-checkpoint)]
	},
	{
		name => 'CREATE DATABASE',
		prepare => sub { run($admin, 'SET testdb.method = file_copy') },
		act => sub { clone() },
		points => [qw(clone-recorded clone-created clone-complete clone-held clone-leased)]
	},
	{
		name => 'CREATE DATABASE, served, copied',
		prepare => sub { restart() },
		act => sub { create_served() },
		silent => 1,
		points => [
			qw(snapshot-cleared snapshot-manifest snapshot-files snapshot-entered clone-entered clone-recorded clone-row
			  clone-files clone-complete clone-held clone-leased)
		],
		logged => [qw(clone-logged clone-checkpoint)]
	},
	{
		name => 'CREATE DATABASE, served from a spare',
		prepare => sub { prewarm(2) },
		act => sub { create_served() },
		silent => 1,
		points => [qw(spare-renamed clone-complete clone-held clone-leased)]
	},
	{
		name => 'CREATE DATABASE, served from a spare that is behind',
		prepare => \&make_stale_spares,
		act => sub { create_served() },
		silent => 1,
		points => [qw(restore-files restore-row restore-flushed spare-renamed)]
	},
	{
		name => 'DROP DATABASE, served',
		prepare => sub { my $name = create_served(); write_to($name) if $name; return $name },
		act => sub { drop_served($_[0]) and settle() if $_[0] },
		silent => 1,
		points => [
			qw(drop-claimed drop-unwanted drop-empty return-row return-committed return-entered recycle-taken recycle-checkpoint
			  restore-files restore-row recycle-committed recycle-published)
		]
	},
	{
		name => 'DROP DATABASE, served, for good',
		prepare => sub {
			my $name = create_served();
			write_to($name) if $name;
			run($admin, 'ALTER SYSTEM SET testdb.recycled = 0');
			run($admin, 'SELECT pg_reload_conf()');
			return $name;
		},
		act => sub { drop_served($_[0]) if $_[0] },
		tidy => sub { $node->safe_psql('postgres', 'ALTER SYSTEM RESET testdb.recycled'); $node->reload },
		silent => 1,
		points => [qw(drop-claimed drop-empty removal-done removal-committed removal-recorded)]
	},
	{
		name => 'spare that is made ahead',
		prepare => sub { restart() },
		act => sub { prewarm(2) },
		points => [qw(clone-files spare-complete spare-unwanted)],
		logged => [qw(clone-logged)]
	},
	{
		name => 'clone from a spare',
		prepare => sub { prewarm(2) },
		act => sub { clone() },
		# No interrupt is processed between these: the session can end there only by a signal that can't be caught.
		kill_only => 1,
		points => [qw(taken taken-open taken-held taken-leased)]
	},
	{
		name => 'clone from a spare with a name',
		prepare => sub { prewarm(2) },
		act => sub { clone(", 'regression_mine_" . ++$nnames . "'") },
		points => [qw(spare-renamed clone-complete clone-held clone-leased)]
	},
	{
		name => 'clone after a change of the template',
		prepare => \&make_stale_spares,
		act => sub { clone() },
		points => [
			qw(snapshot-cleared snapshot-manifest snapshot-files snapshot-entered restore-files restore-row
			  restore-flushed spare-opened clone-complete clone-held clone-leased)
		],
		logged => [qw(restore-logged restore-checkpoint)]
	},
	{
		name => 'drop, for another life',
		prepare => sub { my $name = clone(); write_to($name); return $name },
		act => sub { drop($_[0]) and settle() },
		points => [
			qw(drop-claimed drop-unwanted drop-empty return-row return-committed return-entered recycle-taken
			  recycle-discarded recycle-checkpoint recycle-closed restore-files restore-row restore-flushed
			  recycle-restored recycle-committed forget-begun forget-done recycle-published)
		],
		logged => [qw(restore-logged restore-checkpoint)]
	},
	{
		name => 'drop for good',
		prepare => sub {
			run($admin, 'SET testdb.method = file_copy');
			my $name = clone();
			run($admin, 'RESET testdb.method');
			write_to($name);
			return $name;
		},
		act => sub { drop($_[0]) },
		points => [qw(drop-claimed drop-empty removal-done removal-committed removal-recorded)]
	},
	{
		name => 'drop, where nobody can connect to roll back',
		prepare => sub {
			my $name = clone();
			my $client = connect_to($node, $name);
			run($client, $_) for 'BEGIN', 'CREATE TABLE prepared ()', "PREPARE TRANSACTION '$name'";
			$client->close;
			run($admin, "UPDATE pg_database SET datcollate = 'nonexistent' WHERE datname = '$name'");
			return $name;
		},
		act => sub { drop($_[0]) and settle() },
		points => [qw(drop-mended)]
	},
	{
		name => 'reset',
		prepare => sub { my $name = clone(); write_to($name); return $name },
		act => sub {
			my ($name) = @_;
			$admin->do("SELECT testdb_reset('$name')");
			$held{$name} = $number;
		},
		points => [
			qw(reset-empty restore-rows restore-recorded restore-discarded restore-closed restore-content restore-committed
			  restore-held forget-begun forget-done)
		],
		logged => [qw(restore-logged restore-checkpoint)]
	},
	{
		name => 'reset of what CREATE DATABASE made',
		prepare => sub {
			run($admin, 'SET testdb.method = file_copy');
			my $name = clone();
			write_to($name) if $name;
			return $name;
		},
		act => sub {
			my ($name) = @_;
			$held{$name} = $admin->do("SELECT testdb_reset('$name')") ? $number : 'unknown';
		},
		points => [
			qw(clone-created replacement-row replacement-made replace-held replace-row replace-committed replace-entered
			  garbage-unwanted removal-done removal-committed removal-recorded)
		]
	},
	{
		name => 'rewind',
		prepare => sub { my $name = clone(); write_to($name); return $name },
		act => sub {
			my ($name) = @_;
			$admin->do("SELECT testdb_rewind('$name')");
			$held{$name} = $number;
		},
		points => [
			qw(rewind-closing rewind-entered rewind-closed rewind-rows rewind-recorded rewind-discarded rewind-checkpoint
			  rewind-files rewind-committed rewind-held rewind-opened)
		],
		logged => [qw(rewind-files rewind-committed)]
	},
	{
		name => 'keep',
		prepare => sub { return clone() },
		act => sub { $admin->do("SELECT testdb_keep('$_[0]')") },
		kill_only => 1,
		points => [qw(kept-held)]
	},
	{
		name => 'start',
		prepare => sub { prewarm(2) },
		act => 'start',
		kill_only => 1,
		points => [qw(start-rebuilt garbage-unwanted removal-done removal-committed removal-recorded)]
	});

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
		my $client = connect_to($node, $name);
		my $sum = $client->query('SELECT md5(string_agg(i || t, NULL ORDER BY i)) FROM base') // $client->message;
		push @wrong, "$name: table base: $sum" if $sum ne $checksum;
		push @wrong, amcheck($name);
		$client->close;
		$admin->do("SELECT testdb_drop('$name')") or push @wrong, "dropping $name: " . $admin->message;
	}

	# And it goes on.
	my $name = clone();
	unless ($name)
	{
		push @wrong, 'no new clone: ' . $admin->message;
		return @wrong;
	}
	my $client = connect_to($node, $name);
	my $state =
	  $client->query('SELECT md5(string_agg(i || t, NULL ORDER BY i)), (SELECT count(*) FROM changed) FROM base')
	  // $client->message;
	push @wrong, "new clone: $state" if $state ne "$checksum|$number";
	$client->close;
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
	return "$out$err" eq '' ? () : "pg_amcheck of $name: $out$err";
}

# Lines of the log since the last call that say more than that a process has ended.
sub complaints
{
	my $text = slurp_file($node->logfile, $log_position);
	$log_position = -s $node->logfile;
	return grep {
			 /PANIC|TRAP|could not|invalid page|missing|corrupt|WARNING|may be left|cannot|unexpected|ERROR:|FATAL:/i
		  && !/debug point ".*" was reached/
		  && !/could not (receive|send) data (from|to) client/
		  && !/skipping missing configuration file|terminating background worker/
		  && !/terminating connection (because of crash|due to)|the database system is (starting up|shutting down)/
		  && !/worker ended before it had finished/
		  && !/database locale is incompatible|background worker "testdb rollback"/
		  && !/snapshot of template "$template" must be taken anew: /
		  && !/HINT:|DETAIL:|STATEMENT:|CONTEXT:/
		  && !/unexpected postmaster exit|pre-existing shared memory block|lock file "postmaster.pid" already/
		  && !/\d\] WARNING:  (could not open directory "base|some useless files may be left)/
		  && !/LOG:  (invalid|unexpected pageaddr|record with incorrect)/
	} split /\n/, $text;
}

# Does what a case is about until that has come to its point. A worker may have been told of the point a moment too late,
# and then it is done again.
sub attempt
{
	my ($case, $argument, $done) = @_;
	for (1 .. 3)
	{
		$case->{act}->($argument) if ref $case->{act};
		return 1 if poll($done, 3);
		$argument = eval { $case->{prepare}->() };
	}
	return poll($done, 3);
}

sub try_kill
{
	my ($case, $point) = @_;
	my $what = "$case->{name}, kill at $point";
	my $argument = $case->{prepare}->();
	settle();
	if ($case->{act} eq 'start')
	{
		$admin->close;
		$node->stop;
		set_point("$point kill");
		$node->start(fail_ok => 1);
	}
	else
	{
		reload("$point kill");
	}
	my $reached = attempt($case, $argument, \&server_is_gone);
	ok($reached, "$what: comes there") or $node->stop('immediate');
	set_point('');
	start();
	$case->{tidy}->() if $case->{tidy};
	my @wrong = (check(), map { "log: $_" } complaints());
	ok(!@wrong, "$what: nothing is wrong then") or diag join "\n", @wrong;
	return;
}

sub try_error
{
	my ($case, $point, $how) = @_;
	my $what = "$case->{name}, $how at $point";
	my $position = -s $node->logfile;
	run($admin, "SELECT testdb_template_set('$template', NULL)");
	my $argument = $case->{prepare}->();
	settle();
	reload("$point $how");
	my $told = attempt($case, $argument,
		sub { slurp_file($node->logfile, $position) =~ /(ERROR|FATAL|LOG): .*debug point "$point" was reached/ });
	ok($told, "$what: comes there, and says so");
	reload('');
	$case->{tidy}->() if $case->{tidy};
	my @wrong = (check(), map { "log: $_" } complaints());
	ok(!@wrong, "$what: nothing is wrong then") or diag join "\n", @wrong;
	run($admin, 'RESET testdb.method');
	return;
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
	my $client = connect_to($node, 'postgres');
	reload("$point wait");
	$client->send($statement);
	wait_for_log(qr/debug point "$point" was reached/, $position);
	return $client;
}

# Somebody begins to follow WAL when it has been asked whether anybody does, and a clone's files are written to it by
# their names.
sub try_follower
{
	my $what = 'clone while somebody begins to follow WAL';
	my $name = 'regression_mine_' . ++$nnames;
	restart();
	my $client = hold_at('clone-logged', "SELECT testdb_clone('$template', '$name')");
	my $first = $admin->query(q{SELECT oid FROM testdb_clones() WHERE state = 'creating'});
	like($first, qr/^\d+$/, "$what: it is being made");
	run($admin, q{SELECT pg_create_physical_replication_slot('follower')});
	reload('');
	my $answer = $client->result;
	$client->close;
	is($answer->{error} ? $answer->{error}{M} : $answer->{rows}[0][0], $name, "$what: it is made");
	isnt(oid_of($admin, $name), $first, "$what: once more");
	run($admin, q{SELECT pg_drop_replication_slot('follower')});
	$held{$name} = $number;
	my @wrong = (check(), map { "log: $_" } complaints());
	ok(!@wrong, "$what: nothing is wrong then") or diag join "\n", @wrong;
	return;
}

# A copy fails when it is in WAL already, and the server is killed when its files have been removed: recovery must not make them
# again.
sub try_removed
{
	my $what = 'clone fails when WAL has it, and the server is killed';
	restart();
	my $position = -s $node->logfile;
	reload('clone-logged error');
	ok(!$admin->do("SELECT testdb_clone('$template', 'regression_mine_" . ++$nnames . q{')}), "$what: it fails");
	reload('');
	wait_for_log(qr/removed directory .* of an incompletely created database/, $position);
	settle();
	kill_server($node);
	unlike(
		slurp_file($node->logfile, $position),
		qr/was reached.*checkpoint/s,
		"$what: there was no checkpoint meanwhile");
	start_again($node);
	$admin = connect_to($node, 'postgres');
	my @wrong = (check(), map { "log: $_" } grep { !/debug point "clone-logged" was reached/ } complaints());
	ok(!@wrong, "$what: nothing is wrong then") or diag join "\n", @wrong;
	return;
}

# A file of the snapshot vanishes when it has been found to be there, and there may be no way back: what is being made or
# restored gets the template's content all the same, and who asked for it is told of an error only if that says what becomes of
# it.
my @damaged = (
	[ 'clone', 'clone-row', sub { return "SELECT testdb_clone('$template', 'regression_mine_" . ++$nnames . q{')} } ],
	[ 'drop, for another life', 'recycle-closed', sub { return "SELECT testdb_drop('$_[0]')" } ],
	[ 'reset', 'restore-discarded', sub { return "SELECT testdb_reset('$_[0]')" } ],
	[
		'rewind', 'rewind-discarded',
		sub { return "SELECT testdb_rewind('$_[0]')" }, qr/^55000 .*damaged while a database was being rewound/
	]);

sub try_damaged
{
	my ($case, $point, $statement, $error) = @_;
	my $what = "$case, the snapshot is damaged at $point";
	run($admin, "SELECT testdb_template_set('$template', 0)");
	restart();
	my $name = clone();
	my $client = connect_to($node, $name);
	my $file = run($client, q{SELECT pg_relation_filenode('base')});
	run($client, q{UPDATE base SET t = 'mine'}) unless $case eq 'clone';
	$client->close;
	$client = hold_at($point, $statement->($name));
	my $position = -s $node->logfile;
	unlink $node->data_dir . '/pg_testdb/snapshots/' . oid_of($admin, $template) . "/$file" or die $!;
	reload('');
	my $answer = $client->result;
	my $told = $answer->{error} ? "$answer->{error}{C} $answer->{error}{M}" : '';
	$client->close;
	$error ? like($told, $error, "$what: the error says so") : is($told, '', "$what: no error");
	wait_for_log(qr/snapshot of template "$template" must be taken anew/, $position);
	$held{$name} = $case =~ /drop/ ? 'gone' : $number;
	my @wrong =
	  (check(), map { "log: $_" } grep { !$error || !/ERROR:  snapshot of the template was damaged/ } complaints());
	ok(!@wrong, "$what: nothing is wrong then") or diag join "\n", @wrong;
	run($admin, "SELECT testdb_template_set('$template', NULL)");
	return;
}

# A template is dropped, and the server is killed before what was made ahead of it has gone, or just after: nothing of it stays,
# but for the template's row, marked as invalid, if that is not committed yet, as after PostgreSQL's own DROP DATABASE.
sub try_dropped
{
	my ($point) = @_;
	my $what = "DROP DATABASE of a template, kill at $point";
	run($admin, 'CREATE DATABASE regression_other');
	run($admin, q{SELECT testdb_prewarm('regression_other', 2)});
	settle();
	my $oid = oid_of($admin, 'regression_other');
	reload("$point kill");
	$admin->do('DROP DATABASE regression_other');
	ok(poll(\&server_is_gone, 3), "$what: comes there") or $node->stop('immediate');
	set_point('');
	start();
	settle();
	is( run($admin,
			q{SELECT coalesce(string_agg(datname, ' '), '') FROM pg_database WHERE datname LIKE 'regression_other%'
		AND NOT (datname = 'regression_other' AND datconnlimit = -2)}),
		'',
		"$what: nothing is left of it");
	ok(!-e $node->data_dir . "/pg_testdb/snapshots/$oid", "$what: no snapshot");
	ok($admin->do('DROP DATABASE IF EXISTS regression_other'), "$what: its name is free") or diag $admin->message;
	my @wrong = (check(), map { "log: $_" } complaints());
	ok(!@wrong, "$what: nothing is wrong then") or diag join "\n", @wrong;
	return;
}

# Somebody calls when the server has started, but what testdb made is not yet known: the clone that is to be cloned is.
sub try_early
{
	my ($what, $statement) = @_;
	my $name = clone();
	set_point('start-begun wait');
	$admin->close;
	$node->restart;
	$admin = connect_to($node, 'postgres');
	my $client = connect_to($node, 'postgres');
	$client->send(sprintf $statement, $name);
	ok( poll(
			sub {
				$admin->query(
					q{SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND pid = }
					  . $client->pid);
			}),
		"$what, just after the start: waits");
	reload('');
	$client->result;
	is($client->message, '', "$what: and is answered");
	$client->close;
	run($admin, "SELECT testdb_drop_all()");
	%held = ();
	return;
}

# A checkpoint that began in a clone's life has not come to its pages when they are to be thrown away, and the server ends
# when it has just been completed: recovery starts in the middle of the clone's life, and finds its pages as old as that.
sub try_checkpoint
{
	my $what = 'drop in the middle of a checkpoint';
	my $position;
	prewarm(1);
	my $name = clone();
	run($admin, 'SELECT pg_switch_wal()');
	run($admin, 'CHECKPOINT');
	run($admin, 'UPDATE ballast SET i = i');
	my $client = connect_to($node, $name);
	run($client, 'INSERT INTO base (i) SELECT generate_series(10001, 10050)');
	$position = -s $node->logfile;
	run($admin, 'SELECT pg_switch_wal()');
	wait_for_log(qr/checkpoint starting: (wal|xlog)/, $position);
	run($client, 'INSERT INTO base (i) SELECT generate_series(10051, 10100)');
	$client->close;

	$client = hold_at('recycle-discarded', "SELECT testdb_drop('$name')");
	$client->result;
	$client->close;
	$held{$name} = 'gone';
	unlike(slurp_file($node->logfile, $position), qr/checkpoint complete/, "$what: it is not complete");
	$node->append_conf('postgresql.conf', 'checkpoint_completion_target = 0');
	run($admin, 'SELECT pg_reload_conf()');
	wait_for_log(qr/checkpoint complete/, $position);
	unlike(
		slurp_file($node->logfile, $position),
		qr/checkpoint complete.*checkpoint starting/s,
		"$what: it was the last one");
	kill_server($node);
	set_point('');
	start_again($node);
	$admin = connect_to($node, 'postgres');
	my @wrong = (check(), map { "log: $_" } complaints());
	ok(!@wrong, "$what: nothing is wrong then") or diag join "\n", @wrong;
	return;
}

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

my @only = split ' ', $ENV{TESTDB_POINTS} // '';

sub wanted
{
	my ($point) = @_;
	return !@only || grep { $_ eq $point } @only;
}

# How a process may end at a point of a case. An error of what CREATE DATABASE does, or of a point that another case has come
# to, is the same as there.
my %tried;

sub ways_of
{
	my ($case, $point) = @_;
	my @ways = 'kill';
	return @ways if $case->{kill_only} || $tried{ $point . ($case->{silent} // '') }++;
	# It takes ten seconds until what could not be removed is tried again.
	# What is served is passed on to PostgreSQL when a worker fails, and nobody is told.
	push @ways, 'error' unless $case->{silent} || $point =~ /^removal-(done|recorded)/;
	# No interrupt is processed there.
	push @ways, 'fatal' unless $point eq 'replace-committed';
	return @ways;
}

# Which of them are tried: way => [case, point], ...
my %plan = (kill => [], error => [], fatal => []);
my $nways = how_much('TESTDB_POINT_WAYS', @only ? 3 : 1, 3);
my $turn = $ENV{TESTDB_POINT_TURN} // int rand 6;
note "TESTDB_POINT_TURN=$turn";
for my $case (@cases)
{
	for my $point (@{ $case->{points} })
	{
		my @ways = ways_of($case, $point);
		my @chosen = @ways > $nways ? map { $ways[ ($turn + $_) % @ways ] } 1 .. $nways : @ways;
		$turn++;
		# A short run leaves out every other of those that it only comes to once more.
		next if $nways == 1 && @ways == 1 && !$case->{kill_only} && $turn % 2;
		push @{ $plan{$_} }, [ $case, $point ] for wanted($point) ? @chosen : ();
	}
}

new_cluster('killed', "wal_level = minimal\nmax_wal_senders = 0");
try_kill(@$_) for @{ $plan{kill} };
for my $case (@damaged)
{
	try_damaged(@$case) if wanted($case->[1]);
}
for my $point ('template-dropped', 'template-cleared')
{
	try_dropped($point) if wanted($point);
}
try_early(@$_)
  for grep { wanted('start-begun') }[ 'testdb_clone', q{SELECT testdb_clone('%s')} ],
  [ 'testdb_prewarm', q{SELECT testdb_prewarm('%s', 1)} ],
  [ 'testdb_reset', q{SELECT testdb_reset('%s')} ],
  [ 'testdb_rewind', q{SELECT testdb_rewind('%s')} ],
  [ 'testdb_keep', q{SELECT testdb_keep('%s')} ],
  [ 'testdb_drop', q{SELECT testdb_drop('%s')} ];
stop();

new_cluster('killed_logged', 'wal_level = replica');
for my $case (grep { $_->{logged} } @cases)
{
	try_kill($case, $_) for grep { wanted($_) } $case->{points}[-1], @{ $case->{logged} };
}
if (wanted('clone-logged'))
{
	try_follower();
	try_removed();
}
stop();

if (wanted('recycle-discarded'))
{
	new_cluster(
		'checkpoint', q{
wal_level = minimal
max_wal_senders = 0
full_page_writes = off
max_wal_size = 2MB
min_wal_size = 2MB
checkpoint_timeout = 1d
bgwriter_lru_maxpages = 0
log_checkpoints = on
testdb.spares = 1
},
		# A checkpoint comes to older tables first, and takes 100 ms for each of these pages.
		[
			'CREATE TABLE ballast (i int, t text) WITH (fillfactor = 40)',
			'ALTER TABLE ballast ALTER t SET STORAGE PLAIN',
			q{INSERT INTO ballast SELECT i, repeat('x', 2000) FROM generate_series(1, 200) i}
		],
		extra => ['--wal-segsize=1']);
	try_checkpoint();
	stop();
}

new_cluster('failing', "wal_level = minimal\nmax_wal_senders = 0");
for my $way ('error', 'fatal')
{
	try_error(@$_, $way) for @{ $plan{$way} };
}
stop();
done_testing();
