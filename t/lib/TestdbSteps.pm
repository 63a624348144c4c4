
# What testdb does in steps, with the debug points that these come to, and how processes are to end there.

package TestdbSteps;

use strict;
use warnings;

use Exporter 'import';
use Test::More;
use TestdbPoints;
use TestdbTest;

our @EXPORT = qw(@cases wanted planned attempt);

# What is prepared, and what is done then, with the points that this comes to, and what else than the point is in the log then.
our @cases = (
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
			$node->reload;
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
			my $client = $node->connect_to($name);
			run($client, $_) for 'BEGIN', 'CREATE TABLE prepared ()', "PREPARE TRANSACTION '$name'";
			$client->close;
			run($admin, "UPDATE pg_database SET datcollate = 'nonexistent' WHERE datname = '$name'");
			return $name;
		},
		act => sub { drop($_[0]) and settle() },
		points => [qw(drop-mended)],
		provokes => [qr/FATAL:  database locale is incompatible with operating system/]
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
			qw(rewind-closing rewind-unprevented rewind-entered rewind-closed rewind-rows rewind-recorded rewind-discarded rewind-checkpoint
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

	# What could not be removed, because it was locked or a worker was just starting, is tried again after ten seconds.
	return poll($done, 15);
}

my @only = split ' ', $ENV{TESTDB_POINTS} // '';

# Is it among the points that were asked for?
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
# The files that use this choose the same: of a run of test/run's all know this folder.
my $turn = $ENV{TESTDB_POINT_TURN} // unpack('%32C*', $ENV{PG_TEST_PORT_DIR} // '') % 9;
note "TESTDB_POINT_TURN=$turn";
for my $case (@cases)
{
	for my $point (@{ $case->{points} })
	{
		my @ways = ways_of($case, $point);
		my @chosen = @ways > $nways ? map { $ways[ (int($turn / 3) + $_) % @ways ] } 1 .. $nways : @ways;
		$turn++;
		# A short run has one of three points: which ones, the turn says.
		next if $nways == 1 && $turn % 3;
		push @{ $plan{$_} }, [ $case, $point ] for wanted($point) ? @chosen : ();
	}
}

# What is tried of that: [case, point], ...
sub planned
{
	my ($way) = @_;
	return @{ $plan{$way} };
}

1;
