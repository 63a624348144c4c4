
# What the tests share that kill processes while clones are handed out: a cluster, its settings, and what must hold after a restart.

package TestdbCrash;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

our @EXPORT =
  qw($template $node $full_page_writes $base_checksum $newest %known %tried %seen new_cluster set_variant try_session
  newest_counter remove_orphans check_all complaints);

our $template = 'regression_template';
our $node;
our $full_page_writes = 1;
our $base_checksum;
our %known;    # clones that are handed out, by name: acked, attempted
our %tried;    # names for CREATE DATABASE of which nobody was told whether it has been done
our %seen = (
	killed => {},
	served => 0,
	by_core => 0,
	free => 0,
	survivors => 0,
	amcheck => 0,
	dropping => 0,
	clones => 0,
	drops => 0);
our $newest = PostgreSQL::Test::Utils::tempdir . '/newest';    # a file with the value of newest_counter()
my $amcheck = has_contrib('amcheck');

# A session that may fail, as many do while the server is killed.
sub try_session
{
	my ($db, %args) = @_;
	return $node->connect_to($db, timeout => 30, %args);
}

# The value of the counter that is known to be committed in the template.
sub newest_counter
{
	open my $in, '<', $newest or return 0;
	my $value = <$in> // 0;
	return $value + 0;
}

# Sets wal_level, full_page_writes, fsync and synchronous_commit, for the next start.
sub set_variant
{
	my ($variant) = @_;
	my ($wal_level, $page_writes, $fsync, $sync) = @$variant;
	my $senders = $wal_level eq 'minimal' ? 0 : 4;
	$full_page_writes = $page_writes eq 'on';
	$node->append_conf(
		'postgresql.conf', qq{
wal_level = $wal_level
max_wal_senders = $senders
full_page_writes = $page_writes
fsync = $fsync
synchronous_commit = $sync
});
	return;
}

# A cluster, by options of initdb, and a template.
sub new_cluster
{
	my ($name, @extra) = @_;
	$node = TestdbCluster->new($name);
	$node->init(extra => \@extra);
	$node->append_conf(
		'postgresql.conf', q{
log_statement = none
log_checkpoints = off
restart_after_crash = on
autovacuum = on
autovacuum_naptime = 1s
shared_buffers = 16MB
max_connections = 50
wal_writer_delay = 200ms
testdb.template_timeout = 30s
});
	$node->expect_kill;
	%known = ();
	unlink $newest;
	set_variant([ 'minimal', 'on', 'off', 'on' ]);
	$node->start;
	my $admin = try_session('postgres');
	$admin->do($_) or BAIL_OUT("$_: " . $admin->message) for 'CREATE EXTENSION testdb', "CREATE DATABASE $template";
	my $client = try_session($template);
	$client->do($_)
	  or BAIL_OUT("$_: " . $client->message)
	  for $amcheck ? 'CREATE EXTENSION amcheck' : (), 'CREATE TABLE ledger (i int PRIMARY KEY, t text)',
	  q{CREATE TABLE base AS SELECT i, md5(i::text) AS t FROM generate_series(1, 2000) i},
	  'CREATE INDEX ON base (i)', 'CREATE TABLE counter AS SELECT 0 AS value',
	  'CREATE TABLE pad AS SELECT i, i::text AS t FROM generate_series(1, 2000) i',
	  'CREATE INDEX ON pad (i)';
	$base_checksum = $client->query(q{SELECT md5(string_agg(i || t, ',' ORDER BY i)) FROM base});
	$client->close;
	return;
}

# The entries of the log since the last call that are no part of a crash and a restart.
sub complaints
{
	return $node->complaints(
		qr/PANIC|TRAP|could not|invalid page|missing|corrupt|WARNING|no such file|may be left|cannot|unexpected|ERROR:/i,
		qr/LOG:  could not (receive|send) data (from|to) client/,
		qr/terminating connection (because of crash|due to unexpected postmaster exit)/,
		qr/ERROR:  testdb worker ended before it had finished/,
		# Autovacuum came to a database whose removal has begun; redo to one whose files have gone.  Neither has an
		# application's name.
		qr/\d\] FATAL:  cannot connect to invalid database/,
		qr/\d\] WARNING:  (could not open directory "base|some useless files may be left)/,
		# Where redo ends is where WAL does.
		qr/LOG:  (invalid|unexpected pageaddr|record with incorrect)/);
}

# Removes the directories in base/ that belong to no database, once they have been reported.
sub remove_orphans
{
	my ($directories, $rows) = @_;
	for my $orphan (grep { " $rows " !~ / $_ / } split / /, $directories)
	{
		PostgreSQL::Test::Utils::system_log('rm', '-r', $node->data_dir . "/base/$orphan");
	}
	return;
}

# Everything that must hold after a restart; returns what does not. $by_core says that PostgreSQL may have executed a CREATE
# DATABASE itself, since workers ended with the postmaster.
sub check_all
{
	my ($dropping, $sync, $by_core) = @_;
	my @wrong;
	my $admin = try_session('postgres');

	# Work left over from before the crash is done when each lease belongs to a clone.
	my ($leases, $held) = ('', '');
	poll(
		sub {
			$leases = join ' ', sort map { m{/(\d+)$} } glob $node->data_dir . '/pg_testdb/clones/*';
			$held = join ' ',
			  sort map { $_->[0] } $admin->rows('SELECT oid FROM testdb_clones() WHERE state = \'leased\'');
			return $leases eq $held;
		},
		10) or push @wrong, "leases on disk: $leases; handed out: $held";
	my %clone =
	  map { $_->[0] => $_->[1] }
	  $admin->rows(
		'SELECT datname, d.oid FROM testdb_clones() c JOIN pg_database d USING (oid) WHERE c.state = \'leased\' ORDER BY 1'
	  );
	push @wrong, 'a clone that is handed out has no row'
	  if keys %clone != split ' ', $held;

	my $directories = join ' ', sort map { m{/(\d+)$} } glob $node->data_dir . '/base/*';
	my $rows = join ' ', sort map { $_->[0] } $admin->rows('SELECT oid FROM pg_database');
	if ($directories ne $rows)
	{
		push @wrong, "directories in base: $directories; databases: $rows";
		remove_orphans($directories, $rows);
	}
	my @snapshots = grep { !$admin->query("SELECT count(*) FROM pg_database WHERE oid = $_") }
	  map { m{/(\d+)} } glob $node->data_dir . '/pg_testdb/snapshots/*';
	push @wrong, "snapshots of no database: @snapshots" if @snapshots;
	my $invalid = $admin->query('SELECT datname FROM pg_database WHERE datconnlimit = -2');
	push @wrong, "invalid database $invalid" if $invalid;

	if ($by_core)
	{
		for my $name (grep { !exists $clone{$_} } sort keys(%tried), grep { $known{$_}{unsure} } keys %known)
		{
			next unless $admin->query("SELECT count(*) FROM pg_database WHERE datname = '$name'");
			$admin->do("DROP DATABASE $name") or push @wrong, "dropping $name: " . $admin->message;
			delete $known{$name};
			$seen{by_core}++;
		}
	}
	# By CREATE DATABASE: there and whole, as is looked at below, or not at all.
	for my $name (sort keys %tried)
	{
		push @wrong, "$name is there, and not known"
		  if !exists $clone{$name} && $admin->query("SELECT count(*) FROM pg_database WHERE datname = '$name'");
	}
	if (my ($name) = grep { !exists $clone{$_} } sort keys %tried)
	{
		$admin->do($_)
		  or push @wrong, "$_: " . $admin->message
		  for "CREATE DATABASE $name TEMPLATE template0", "DROP DATABASE $name";
		$seen{free}++;
	}
	%tried = ();

	for my $name (sort keys %known)
	{
		my $is = $known{$name};
		if (exists $clone{$name})
		{
			push @wrong, "$name came back after its drop was acknowledged" if $is->{gone};
		}
		elsif ($is->{gone} || $dropping->{$name})
		{
			delete $known{$name};
		}
		else
		{
			push @wrong, "$name was handed out, and is lost";
			delete $known{$name};
		}
	}
	$seen{dropping}  += keys %$dropping;
	$seen{survivors} += keys %clone;

	for my $name (sort keys %clone)
	{
		my $client = try_session($name);
		my $state = $client->query(
			q{
			SELECT (SELECT md5(string_agg(i || t, ',' ORDER BY i)) FROM base), count(*), coalesce(max(i), 0),
				bool_and(t = repeat('l', 300))
			FROM ledger});
		unless (defined $state)
		{
			push @wrong, "$name: " . $client->message;
			next;
		}
		my ($checksum, $n, $max, $good) = split /\|/, $state, -1;
		my $is = $known{$name} || { attempt => 0, acked => 0 };
		push @wrong, "$name: wrong table" if $checksum ne $base_checksum;
		push @wrong, "$name: ledger has $n rows up to $max" if $n != $max || $good eq 'f';
		push @wrong, "$name: $n rows, at most $is->{attempt} were written" if $n > $is->{attempt};
		push @wrong, "$name: $n rows, $is->{acked} were committed" if $sync eq 'on' && $n < $is->{acked};
		$is->{acked} = $is->{attempt} = $n;
		$known{$name} = $is;
	}
	my $value = try_session($template)->query('SELECT value FROM counter') // 'nothing';
	my $committed = newest_counter();
	push @wrong, "the template has counter $value, $committed was committed"
	  if $sync eq 'on' && $value < $committed;
	open my $out, '>', $newest;
	print $out $value;
	close $out;

	if ($amcheck and my @names = sort keys %clone)
	{
		$seen{amcheck}++;
		my ($stdout, $stderr) = run_command(
			[
				$node->installed_command('pg_amcheck'),
				'-h', $node->host, '-p', $node->port, '-j', 2, '--heapallindexed', map { ('-d', $_) } @names, $template
			]);
		push @wrong, "pg_amcheck: $stdout $stderr" if "$stdout$stderr" ne '';
	}

	# So that the next round does not find it again.
	if ($invalid)
	{
		for my $name (split /\n/, $invalid)
		{
			$admin->do("DROP DATABASE \"$name\"") or diag $admin->message;
			delete $clone{$name};
			delete $known{$name};
		}
	}

	# Some live on into the next rounds, the others make room.
	my @names = sort keys %clone;
	my %keep = map { $_ => 1 } (sort { rand() <=> 0.5 } @names)[ 0 .. 1 ] if @names > 2;
	for my $name (grep { !$keep{$_} } @names)
	{
		$admin->do("SELECT testdb_drop('$name')") or push @wrong, "dropping $name: " . $admin->message;
		delete $known{$name};
	}
	return @wrong;
}

1;
