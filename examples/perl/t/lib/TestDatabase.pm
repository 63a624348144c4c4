package TestDatabase;

# Databases for the tests, by testdb. Copy this file, and delete the half of it that you don't use.
#
#   with_database    a database of its own for each test
#   worker_database  one for each test file, which prove runs in a process of its own; "rewound" makes it what the template is
#                    again, while connections to it stay open

use strict;
use warnings;
use DBI;
use Digest::SHA qw(sha256_hex);
use Exporter qw(import);
use Test::More;

our @EXPORT = qw(with_database worker_database rewound connect_to);

# Where testdb is. What a test gets is another database on this server.
my $url = $ENV{ADMIN_URL} // 'postgresql://postgres:postgres@localhost:5435/postgres';
my ($user, $password, $host, $port) = $url =~ m{^\w+://(.+?):(.+?)@(.+?):(\d+)/} or die "ADMIN_URL: $url\n";

sub connect_to {
	my ($database) = @_;
	my %options = (RaiseError => 1, PrintError => 0, PrintWarn => 0);
	return DBI->connect("dbi:Pg:host=$host;port=$port;dbname=$database", $user, $password, \%options);
}

# The template is made from the migrations, by the process that comes first; the others wait for it. After a change of a
# migration there is another one. A process that is interrupted leaves none, and the next one makes it.
my $admin = connect_to('postgres');
my $schema = join "\n", map { open(my $file, '<', $_) or die "$_: $!\n"; local $/; <$file> } sort glob 'migrations/*.sql';
my ($template, $build) = $admin->selectrow_array("SELECT * FROM testdb_template_begin('shop', ?)", undef, sha256_hex($schema));
if ($build) {
	my $building = connect_to($template);
	$building->do($schema);
	$building->disconnect;
	$admin->do('SELECT testdb_template_finish(?)', undef, $template);
}

# The clone goes with the connection that asked for it: when this process ends, however it ends.
sub clone {
	my ($label) = @_;
	return $admin->selectrow_array("SELECT testdb_clone(?, scope => 'session', label => left(?, 100))", undef, $template, $label);
}

# Use: with_database 'payment' => sub { my ($db) = @_; ... };
sub with_database {
	my ($name, $test) = @_;
	my $database = clone($name);
	my $db = connect_to($database);
	# A subtest that dies has failed, and the next ones go on.
	my $passed = subtest $name => sub { eval { $test->($db); 1 } or fail("died: $@"); done_testing };
	$db->disconnect;
	$admin->do($passed ? 'SELECT testdb_drop(?)' : "SELECT testdb_keep(?, '2 days')", undef, $database);
	diag qq(Kept for 2 days: psql "host=$host port=$port user=$user dbname=$database") if !$passed;
	return $passed;
}

# Use: my $db = worker_database; and, before each test, rewound($db), which returns it.
sub worker_database { return connect_to(clone('worker')) }

sub rewound {
	my ($db) = @_;
	$admin->do('SELECT testdb_rewind(?)', undef, $db->{pg_db});
	return $db;
}

1;
