package TestDatabase;

# Databases for the tests, by testdb. Copy this file, and delete the half of it that you don't use.

use strict;
use warnings;
use DBI;
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

# Calls a function of testdb, on one connection that stays. Clones go with it: when this process ends, however it ends.
my $admin = connect_to('postgres');
sub call { return $admin->selectrow_array('SELECT * FROM ' . shift, undef, @_) }

# The process that comes first makes the template; the others wait here. After a change of a migration there is another one.
my $schema = `cat migrations/*.sql`;
my ($template, $build) = call("testdb_template_begin('shop', md5(?))", $schema);
if ($build) {
	connect_to($template)->do($schema);
	call('testdb_template_finish(?)', $template);
}
sub clone { return call("testdb_clone(?, scope => 'session', label => left(?, 100))", $template, @_) }

# A subtest with a database of its own. Use: with_database 'payment' => sub { my ($db) = @_; ... };
sub with_database {
	my ($name, $test) = @_;
	my $db = connect_to(my $database = clone($name));
	# A subtest that dies has failed, and the next ones go on.
	my $passed = subtest $name => sub { eval { $test->($db); 1 } or fail("died: $@"); done_testing };
	$db->disconnect;
	call($passed ? 'testdb_drop(?)' : "testdb_keep(?, '2 days')", $database);
	diag qq(Kept for 2 days: psql "host=$host port=$port user=$user dbname=$database") if !$passed;
	return $passed;
}

# One for all tests of a file, with the template's content again before each, while connections stay.
# Use: my $db = worker_database; and, before each test, rewound($db), which returns it.
sub worker_database { return connect_to(clone('worker')) }

sub rewound {
	my ($db) = @_;
	call('testdb_rewind(?)', $db->{pg_db});
	return $db;
}

1;
