
# Ends the builder of a template, or the worker that seals it, at each step of that, by kill -9, a FATAL error or an error.
# Afterwards the template is there and whole, or nothing of it is, and it can be built. Needs a library that was built with
# DEBUG=1; test/run makes one for this test.

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

my $node = TestdbCluster->new_server('build_points',
	"restart_after_crash = on\ntestdb.timeout = 20s\ninclude_if_exists 'point.conf'");
my $nfingerprints = 0;

# What there is: finished templates, other databases of that name, claims.
sub state_of
{
	my ($fingerprint) = @_;
	my $client = $node->reconnect;
	my $state = $client->query(
		qq{
		SELECT (SELECT count(*) FROM testdb_builds WHERE fingerprint = '$fingerprint' AND state = 'ready'),
			(SELECT count(*) FROM pg_database WHERE datname LIKE 'regression_built%'
				AND oid NOT IN (SELECT oid FROM testdb_builds() WHERE state = 'ready')
				AND oid NOT IN (SELECT oid FROM testdb_clones() WHERE state IN ('spare', 'returned', 'restoring'))),
			(SELECT count(*) FROM testdb_builds WHERE state = 'building')});
	$client->close;
	return $state // '';
}

for
  my $point (qw(build-claimed clone-recorded clone-held clone-leased seal-row seal-committed seal-held build-finished))
{
	for my $how (qw(error fatal kill))
	{
		# In the session an error before the claim's end, in which nothing is to be seen of it afterwards, is the rest of this test.
		my $title = "$point $how";
		my $fingerprint = 'f' . ++$nfingerprints;
		my $in_begin = $point =~ /^(build-claimed|clone)/;
		my $client = $node->reconnect;
		my $db;
		$db = $client->query("SELECT database FROM testdb_template_begin('regression_built', '$fingerprint')")
		  unless $in_begin;
		$node->use_point("$point $how");
		my $waiter;

		unless ($in_begin)
		{
			$waiter = $node->reconnect;
			$waiter->send("SELECT * FROM testdb_template_begin('regression_built', '$fingerprint')");
		}
		ok( !$client->do(
				$in_begin
				? "SELECT testdb_template_begin('regression_built', '$fingerprint')"
				: "SELECT testdb_template_finish('$db')"),
			"$title: that is reached");
		$node->use_point('');
		$client->close;
		if ($waiter && $how ne 'kill')
		{
			my ($row) = @{ $waiter->result->{rows} };
			is($row->[1], $point eq 'build-finished' ? 'f' : 't', "$title: who waits gets it, or is to build it");
		}
		$waiter->close if $waiter;
		my $expected = qr/^[01]\|0\|0$/;
		$expected = qr/^1\|0\|0$/ if $point eq 'build-finished' || ($point eq 'seal-held' && $how eq 'kill');
		$expected = qr/^0\|0\|0$/ if $in_begin || $point eq 'seal-row';
		my $state = '';
		poll(sub { $state = state_of($fingerprint); $state =~ $expected });
		like($state, $expected, "$title: it is finished, or nothing of it is left");

		my $next = $node->reconnect;
		my ($database, $build) = split /\|/,
		  $next->query("SELECT * FROM testdb_template_begin('regression_built', '$fingerprint')") // '';
		ok(defined $build, "$title: it can be asked for");
		ok($next->do("SELECT testdb_template_finish('$database')"), "$title: and built")
		  or diag $next->message
		  if ($build // '') eq 't';
		my $clone = $next->query("SELECT testdb_clone('$database')");
		ok($clone && $next->do("SELECT testdb_drop('$clone')"), "$title: and cloned");
		$next->close;
	}
}

# A builder whose work is taken over is not in its successor's way, nor the worker that still makes its database.
{
	$node->use_point('clone-recorded wait');
	my $client = $node->reconnect;
	my $pid = $client->pid;
	$client->send(q{SELECT testdb_template_begin('regression_built', 'held')});
	my $admin = $node->reconnect;
	poll(
		sub {
			slurp_file($node->logfile) =~ /debug point "clone-recorded" was reached/
			  && run($admin, 'SELECT count(*) FROM testdb_clones() WHERE state = \'creating\'') > 0;
		}) or die 'not reached';
	my $waiter = $node->reconnect;
	$waiter->send(q{SELECT * FROM testdb_template_begin('regression_built', 'held')});
	run($admin, "SELECT pg_cancel_backend($pid)");
	like(($client->result->{error} || {})->{C} // '', qr/^57014/, 'held: the builder is cancelled');
	$node->use_point('');
	my ($row) = @{ $waiter->result->{rows} };
	is($row->[1], 't', 'held: the next is to build it');
	ok($waiter->do("SELECT testdb_template_finish('$row->[0]')"), 'held: and does');
	$_->close for $client, $admin, $waiter;
	poll(sub { state_of('held') eq '1|0|0' });
	is(state_of('held'), '1|0|0', 'held: and nothing else is left');
}

$node->stop;
done_testing();
