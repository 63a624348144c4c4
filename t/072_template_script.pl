
# testdb-template, in the shells that there are: builds once, prints the name, ends with the command's status.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $script = "$FindBin::RealBin/../bin/testdb-template";
my $node = TestdbCluster->new_server('template_script', '');
my $admin = $node->session('postgres');
$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
delete $ENV{PGDATABASE};
my $user = getpwuid($<);

# Migrations, with names that want quoting.
my $dir = PostgreSQL::Test::Utils::tempdir;
chdir $dir or die $!;
mkdir $_ or die $! for 'db', 'db/migrations', 'db/migrations/more and more';
sub put { my ($file, $text) = @_; open my $out, '>', $file or die $!; print $out $text; close $out; return }
put('db/migrations/1.sql', 'CREATE TABLE t (i int);');
put('db/migrations/more and more/2\'s.sql', 'INSERT INTO t VALUES (1);');
put('db/other.txt', 'x');
put('build.sh',
	q{echo building; echo "$*" >>log; psql -XAtq -f db/migrations/1.sql && psql -XAtq -f "db/migrations/more and more/2's.sql" &&
	psql -XAtq "$DATABASE_URL" -c 'SELECT current_database()' >url});

# What it says and how it ends.
sub call
{
	my ($shell, @arguments) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ @$shell, $script, @arguments ], '<', \undef, '>', \$out, '2>', \$err);
	chomp $out;
	return ($out, $err, $? >> 8);
}

# PostgreSQL::Test has set it, and the script keeps what is set.
delete $ENV{PGAPPNAME};

my @build = ('--', 'sh', 'build.sh', 'a  b', '$c');
my @shells = grep {
	my $shell = $_->[0];
	grep { -x "$_/$shell" } split /:/, $ENV{PATH}
}['sh'], ['dash'], [ 'bash', '--posix' ], ['bash'], [ 'busybox', 'sh' ];
for my $shell (@shells)
{
	my $title = "@$shell";
	unlink 'log', 'url';
	my @files = ('--name', 'regression script', '--files', 'db/migrations/**');
	my ($name, $err, $status) = call($shell, @files, @build);
	is($status, 0, "$title: built") or diag $err;
	like($name, qr/^regression script_[0-9a-f]{8}/, "$title: the name is all that it prints");
	like($err, qr/building/, "$title: what the command says goes to standard error");
	is(slurp_file('log'), "a  b \$c\n", "$title: the command's arguments are as they were");
	is(slurp_file('url'), "$name\n", "$title: DATABASE_URL leads to the database");
	my $inside = $node->session(my $clone = run($admin, "SELECT testdb_clone('$name')"));
	is(run($inside, 'SELECT count(*) FROM t'), 1, "$title: it has what was built");
	$inside->close;
	run($admin, "SELECT testdb_drop('$clone')");

	is_deeply([ (call($shell, @files, @build))[ 0, 2 ] ], [ $name, 0 ], "$title: the second time it is there");
	put('db/other.txt', 'y');
	is((call($shell, @files, @build))[0], $name, "$title: other files do not count");
	is(slurp_file('log'), "a  b \$c\n", "$title: it was built once");
	for my $pattern ('db/migrations', 'db/**/*.sql', 'db/migrations/*')
	{
		my ($same) = call($shell, '--name', 'regression script', '--files', $pattern, @build);
		is($same, $name, "$title: $pattern means the same files");
	}
	put('db/migrations/1.sql', 'CREATE TABLE t (i int, j int);');
	my ($other) = call($shell, @files, @build);
	isnt($other, $name, "$title: a change of a file makes another");
	put('db/migrations/1.sql', 'CREATE TABLE t (i int);');
	(undef, $err, $status) = call(
		$shell, '--name',
		'regression layer', '--fingerprint',
		'v1', '--base',
		$name, '--url',
		"postgresql://$user@/postgres?host=" . $node->host . '&port=' . $node->port, '--timeout',
		'2min', '--',
		'sh', '-c',
		'psql -XAtq "$DATABASE_URL" -c "INSERT INTO t VALUES (2)"');
	is($status, 0, "$title: a layer, by a URL") or diag $err;
	is( run($admin, q{SELECT base, fingerprint FROM testdb_builds WHERE name = 'regression layer'}),
		"$name|v1 on $name",
		"$title: which is part of the fingerprint");

	($other, $err, $status) =
	  call($shell, '--name', 'regression failed', '--fingerprint', 'x', '--', 'sh', '-c', 'exit 42');
	is_deeply([ $other, $status ], [ '', 42 ], "$title: a command that fails gives its status");
	is(run($admin, q{SELECT count(*) FROM testdb_builds WHERE name = 'regression failed'}),
		0, "$title: and no template");
	($other, $err, $status) =
	  call($shell, '--name', 'regression failed', '--fingerprint', 'x', '--base', 'regression_missing', '--', 'true');
	is_deeply([ $other, $status ], [ '', 1 ], "$title: an error of the server is one");
	like($err, qr/template database "regression_missing" does not exist/, "$title: and said");

	for my $wrong (
		[ qr/--name is missing/, '--fingerprint', 'x', '--', 'true' ],
		[ qr/--files or --fingerprint is missing/, '--name', 'x', '--', 'true' ],
		[ qr/the command is missing/, '--name', 'x', '--fingerprint', 'x' ],
		[ qr/no file is "db\/none"/, '--name', 'x', '--files', 'db/none', '--', 'true' ],
		[ qr/unknown option "--wrong"/, '--wrong' ],
		[ qr/--name needs a value/, '--name' ])
	{
		my ($says, @arguments) = @$wrong;
		($other, $err, $status) = call($shell, @arguments);
		is($status, 2, "$title: @arguments: refused");
		like($err, $says, "$title: and said so");
	}

	# Three at once, and one that is killed while it builds.
	put('slow.sh', q{echo x >>slow; until [ -e go ]; do sleep 0.05; done});
	unlink 'go', 'slow';
	my @slow = (@$shell, $script, '--name', 'regression slow', '--fingerprint', $title, '--', 'sh', 'slow.sh');
	my @out = ('') x 4;
	my @runs = map { my $i = $_; IPC::Run::start(\@slow, '<', \undef, '>', \$out[$i], '2>', \my $e) } 0 .. 3;
	poll(
		sub {
			run($admin, q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'testdb-template'}) == 4
			  && -e 'slow';
		}) or die 'not all four have come';
	my $pid = run($admin, q{SELECT builder FROM testdb_builds WHERE state = 'building'});
	run($admin, "SELECT pg_terminate_backend($pid)");
	poll(sub { -s 'slow' == 4 }) or die 'no second builder';
	put('go', '');
	my @ended = map { IPC::Run::finish($_) ? 0 : 1 } @runs;
	is(scalar(grep { $_ } @ended), 1, "$title: of four, one ends with an error, whose session was terminated");
	my %names = map { $_ => 1 } grep { $_ ne '' } @out;
	is(scalar keys %names, 1, "$title: the others print one name");
	is(slurp_file('slow'), "x\nx\n", "$title: two have built");
	run($admin, "SELECT testdb_template_drop('regression $_')") for qw(script layer slow);
	is(run($admin, q{SELECT count(*) FROM testdb_builds}), 0, "$title: nothing is left");
	is_deeply([ glob("$ENV{TMPDIR}/testdb-template.*") ], [], "$title: and no files") if $ENV{TMPDIR};
}

$node->stop;
done_testing();
