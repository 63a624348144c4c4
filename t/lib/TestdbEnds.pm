
# The ends of clones to which something was done, and what must be left of them.

package TestdbEnds;

use strict;
use warnings;

use Exporter 'import';
use Test::More;
use TestdbSpoil;
use TestdbTest;
use Time::HiRes 'time';

our @EXPORT = qw(reset_all end_all);

# Makes a clone for each kind in a session, and does to it what the kind is; a hash of kind => [ name, OID, first name ].
sub make_all
{
	my ($client, $terms, @batch) = @_;
	my %made;
	for my $kind (@batch)
	{
		my ($what, $spoil) = @$kind;
		my $name = run($client, "SELECT testdb_clone('$template'" . ($terms ? ", $terms" : '') . ')');
		my $oid = oid_of($admin, $name);
		$spoil->($name);
		$made{$what} = [ run($admin, "SELECT datname FROM pg_database WHERE oid = $oid"), $oid, $name ];
	}
	return %made;
}

# What there still is of the database of that OID in its former life, in a few words.
sub rest_of
{
	my ($name, $oid, $first) = @_;
	my @rest;
	push @rest, 'row'
	  if run($admin, "SELECT count(*) FROM pg_database WHERE oid = $oid AND datname = " . literal($name));
	push @rest,
	  'lease'
	  if run($admin,
		"SELECT count(*) FROM testdb_clones() WHERE oid = $oid AND state IN ('leased', 'garbage', 'removing')");
	push @rest, 'subscription' if run($admin, "SELECT count(*) FROM pg_subscription WHERE subdbid = $oid");
	push @rest, 'prepared' if run($admin, "SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE '%$first'");
	push @rest,
	  'slot'
	  if run($admin,
		"SELECT count(*) FROM pg_replication_slots WHERE slot_name IN ('slot_' || md5('$first'), 'temporary_' || md5('$first'))"
	  );
	return join ' ', @rest;
}

# Tests that of all of them nothing is left, now or soon.
sub all_gone
{
	my ($how, $seconds, %made) = @_;
	for my $what (sort keys %made)
	{
		my $rest;
		poll(sub { $rest = rest_of(@{ $made{$what} }); $rest eq '' }, $seconds);
		is($rest, '', "$how: $what");
		$seconds = 0.1 if $rest ne '';
	}
	is(run($admin, "SELECT count(*) FROM pg_replication_origin WHERE roname LIKE 'pg\\_%'"),
		0, "$how: no replication origin is left");
	is(run($admin, "SELECT count(*) FROM pg_shdepend WHERE classid = 'pg_subscription'::regclass"),
		0, "$how: no dependency of a subscription is left");
	run($admin, "SELECT testdb_drop('$_', true)") for splice @children;
	@kept = ();
	$_->finish for splice @streams;
	poll(
		sub {
			$admin->do(
				q{SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'follow%'});
		}) or die $admin->told;
	return;
}

# Tests the next lives of those that are recycled: they have nothing of the former one. A clone of a template that was never
# changed is what they must be like.
my ($wanted_rows, $wanted_more);

sub no_remains
{
	my %made = @_;
	my %what = map { $made{$_}[1] => $_ } keys %made;
	my %lives;
	poll(sub { is_idle($admin) && !run($admin, 'SELECT sum(recycling) FROM testdb_templates') })
	  or die 'nothing is recycled';
	for (1 .. keys %made)
	{
		my $name = run($admin, "SELECT testdb_clone('$template')");
		my $oid = oid_of($admin, $name);
		my $kind = $what{$oid};
		$lives{$name} = $kind;
		if (defined $kind)
		{
			is(differences($wanted_rows, catalog_rows($admin, $oid)), '', "next life: $kind, catalogs");
			is(differences($wanted_more, described($admin, $oid)), '', "next life: $kind, what else is under its OID");
		}
	}
	for my $name (sort keys %lives)
	{
		my $client = $node->connect_to($name);
		is(   $client->error
			? $client->told
			: $client->query(q{SELECT count(*) || ' ' || (SELECT count(*) FROM pg_event_trigger) FROM t}),
			'100 0',
			"next life: $lives{$name}, it can be used") if defined $lives{$name};
		$client->close;
		call('testdb_drop', $name);
	}
	cmp_ok(scalar(grep { defined } values %lives), '>=', 10, 'next life: some are recycled');
	return;
}

# Resets each, uses it and drops it.
sub reset_all
{
	my %made = @_;
	for my $what (sort keys %made)
	{
		my ($name) = @{ $made{$what} };
		ok(defined call('testdb_reset', $name), "testdb_reset: $what") or diag $admin->told;
		my $client = $node->connect_to($name);
		is($client->error ? $client->told : $client->query('SELECT count(*) FROM t'),
			100, "testdb_reset: $what, it can be used");
		$client->close;
		is(call('testdb_drop', $name), 't', "testdb_reset: $what, dropped") or diag $admin->told;
	}
	return;
}

# Has clones of all kinds made and ended in each of these ways.
sub end_all
{
	my @roads = @_;

	# What a clone is like that nothing was done to.
	my $first = run($admin, "SELECT testdb_clone('$template')");
	$wanted_rows = catalog_rows($admin, oid_of($admin, $first));
	$wanted_more = described($admin, oid_of($admin, $first));
	call('testdb_drop', $first);

	for my $road (@roads)
	{
		my ($how, $terms, $user, $end) = @$road;
		for my $group ('', 'streams', 'locks')
		{
			my @batch = kinds_of($group);
			# testdb_keep would have to wait for the lock.
			$terms =~ s/1 hour/4 seconds/ if $group eq 'locks';
			my $client = $node->session('postgres', $user ? (user => $user) : ());
			my $start = time;
			my %made = make_all($client, $terms, @batch);
			$end->($client, %made);
			all_gone($how, 20, %made);
			no_remains(%made) if $how eq 'testdb_drop' && $group eq '';
			note sprintf '%s: %.1f s', $how, time - $start;
		}
	}
	is(run($admin, "SELECT count(*) FROM testdb_clones"), 0, 'no clone is left');
	return;
}

1;
