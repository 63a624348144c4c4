
# Errors, and ends by a FATAL error, at each step of cloning, dropping, recycling, resetting and taking a snapshot. Afterwards there must
# be what there should be, and nothing else. Needs a library that was built with DEBUG=1; test/run makes one for this test.
#
#   TESTDB_POINTS        only these points
#   TESTDB_POINT_WAYS    in how many ways processes end at a point of a case: 3, or in a short run 1 in turn, at one of three points
#   TESTDB_POINT_TURN    repeats the choice of another short run

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbPoints;
use TestdbSteps;
use TestdbTest;

BEGIN { plan skip_all => 'no library that was built with DEBUG=1' unless $ENV{TESTDB_DEBUG_CONFIG} }
$ENV{TEMP_CONFIG} = $ENV{TESTDB_DEBUG_CONFIG};

sub try_error
{
	my ($case, $point, $how) = @_;
	my $what = "$case->{name}, $how at $point";
	my $position = -s $node->logfile;
	run($admin, "SELECT testdb_template_set('$template', NULL)");
	my $argument = $case->{prepare}->();
	settle();
	$node->use_point("$point $how");
	my $told = attempt($case, $argument,
		sub { slurp_file($node->logfile, $position) =~ /(ERROR|FATAL|LOG): .*debug point "$point" was reached/ });
	ok($told, "$what: comes there, and says so")
	  or diag 'states: ' . run($admin, q{SELECT string_agg(oid || ' ' || state, ', ') FROM testdb_clones()});
	$node->use_point('');
	$case->{tidy}->() if $case->{tidy};
	is_right(
		$what,
		qr/(ERROR|FATAL|LOG):  .*debug point "$point" was reached/,
		$how eq 'fatal' ? qr/ERROR:  testdb worker ended before it had finished/ : (),
		@{ $case->{provokes} // [] });
	run($admin, 'RESET testdb.method');
	return;
}

new_cluster('failing', "wal_level = minimal\nmax_wal_senders = 0");
for my $way ('error', 'fatal')
{
	try_error(@$_, $way) for planned($way);
}
stop();
done_testing();

