
# Installing, updating and dropping the extension while the server has the library loaded; a library of another version
# than the extension's. A next version is made of this one and installed into a folder of the test's own.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $top = "$FindBin::RealBin/..";
my $pg_config = $ENV{PG_CONFIG} || 'pg_config';

plan skip_all => 'testdb was not built here' unless -e "$top/testdb.so";

# Which setting lets a server take extensions from elsewhere?
my ($known) = run_command([ 'postgres', '--describe-config' ]);
my ($setting) = grep { $known =~ /^$_\t/m } 'extension_control_path', 'extension_destdir';
plan skip_all => 'this server takes extensions from its own folders only' unless $setting;

sub slurp
{
	return slurp_file($_[0]);
}

# Writes a file.
sub spew
{
	my ($file, $text) = @_;
	open my $out, '>', $file or die "$file: $!";
	print $out $text;
	close $out or die "$file: $!";
	return;
}

# A copy of the source, with what is built of it already.
sub copy_source
{
	my ($to) = @_;
	mkdir $to or die "$to: $!";
	system_or_bail('cp', '-Rp', map({ "$top/$_" } 'Makefile', 'testdb.control', 'bin', 'sql', 'src', 'testdb.so'), $to);
	return $to;
}

my $root = PostgreSQL::Test::Utils::tempdir_short();

# Installs a copy below $root.
sub install
{
	my ($from) = @_;
	delete local @ENV{qw(MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES)};
	system_or_bail('make', '-s', '-C', $from, "PG_CONFIG=$pg_config", "DESTDIR=$root", 'install');
	return;
}

my ($version) = slurp("$top/testdb.control") =~ /^default_version = '(.*)'$/m;
my $next = $version =~ s/(\d+)$/$1 + 1/er;
my $folder = PostgreSQL::Test::Utils::tempdir();
my $this_source = copy_source("$folder/this");

# An older version, of which there is only the script; what it declared is not of interest.
my $script = slurp("$this_source/sql/testdb--$version.sql");
spew("$this_source/sql/testdb--0.0.9.sql", $script);
spew("$this_source/sql/testdb--0.0.9--$version.sql", '');

# The next one has one more function.
my $next_source = copy_source("$folder/next");
spew("$next_source/testdb.control",
	slurp("$this_source/testdb.control") =~ s/^default_version = .*$/default_version = '$next'/mr);
spew("$next_source/src/next.c", <<'END');
#include "postgres.h"
#include "compat.h"
#include "testdb.h"

SQL_FUNCTION(testdb_next);

Datum
testdb_next(PG_FUNCTION_ARGS pg_attribute_unused())
{
	testdb_check_library();
	PG_RETURN_INT32(42);
}
END
my $addition = "CREATE FUNCTION testdb_next() RETURNS integer AS 'MODULE_PATHNAME' LANGUAGE C;\n";
spew("$next_source/sql/testdb--$next.sql", $script . $addition);
spew("$next_source/sql/testdb--$version--$next.sql", $addition);
spew("$next_source/sql/testdb--$next--$version.sql", "DROP FUNCTION testdb_next();\n");

# What a session is told where the extension has one version and the library another.
sub mismatch
{
	my ($extension, $library, $hint) = @_;
	return "55000: extension \"testdb\" and its library have different versions\n"
	  . "The extension has version $extension, the loaded library version $library.\n$hint";
}
my $update = 'Run ALTER EXTENSION testdb UPDATE to update the extension.';
my $restart = "Install version $next of the library if necessary, and restart the server.";

install($this_source);
my ($pkglibdir, $sharedir) = map { (run_command([ $pg_config, $_ ]))[0] } '--pkglibdir', '--sharedir';
my $node = TestdbCluster->new_server(
	'main', join "\n",
	q{wal_level = minimal
max_wal_senders = 0
max_logical_replication_workers = 0},
	"dynamic_library_path = '$root$pkglibdir:\$libdir'",
	$setting eq 'extension_destdir'
	? "extension_destdir = '$root'"
	: "extension_control_path = '$root$sharedir:\$system'");
my $postmaster = slurp($node->data_dir . '/postmaster.pid') =~ s/\n.*//sr;

# Runs a statement that must succeed, in a new session.
sub ask
{
	my ($sql, $db) = @_;
	my $client = $node->connect_to($db || 'postgres');
	my $result = run($client, $sql);
	$client->close;
	return $result;
}

# Tests what each function and view says to a new session.
sub all_say
{
	my ($expected, $title) = @_;
	my %said;
	for my $call (
		q{testdb_clone('regression_template')}, q{testdb_drop('regression_1')},
		q{testdb_drop_all()}, q{testdb_reset('regression_1')},
		q{testdb_keep('regression_1')}, q{testdb_prewarm('regression_template', 0)},
		q{testdb_template_set('regression_template', 0)}, 'testdb_stats_reset()',
		'testdb_uninstall()', 'testdb_install()',
		'count(*) FROM testdb_clones', 'count(*) FROM testdb_templates',
		'count(*) FROM testdb_stats')
	{
		push @{ $said{ $node->error_of("SELECT $call") } }, $call;
	}
	return is_deeply([ keys %said ], [$expected], $title) || diag explain \%said;
}

my $extversion = q{SELECT extversion FROM pg_extension WHERE extname = 'testdb'};
ask("CREATE DATABASE $_") for 'regression_template', 'regression_other', 'regression_old';
ask('CREATE TABLE t AS SELECT 42 AS n', 'regression_template');
is(ask($extversion), $version, 'what is installed is this version');
my $open = $node->connect_to('postgres');
is(run($open, q{SELECT testdb_clone('regression_template', 'regression_1')}), 'regression_1', 'a clone is made');

# Once more the same.
install($this_source);
is(ask(q{SELECT testdb_drop(testdb_clone('regression_template'))}), 't', 'installed again: a new session');
is(run($open, q{SELECT testdb_drop(testdb_clone('regression_template'))}), 't', 'installed again: an open session');
my ($status, $out, $notice) = $node->psql('postgres', 'ALTER EXTENSION testdb UPDATE');
is($status, 0, 'update to the same version');
like($notice, qr/NOTICE: .*version "\Q$version\E" of extension "testdb" is already installed/, 'and its notice');

# Dropped and created again, with the library loaded all the while. In the open session, too.
for my $session (0, 1)
{
	my $do = $session ? sub { run($open, @_) } : \&ask;
	$do->('DROP EXTENSION testdb');
	is( $node->error_of(q{SELECT testdb_clone('regression_template')}) =~ s/\n.*//sr,
		'42883: function testdb_clone(unknown) does not exist',
		'dropped: there are no functions');
	is(ask('SELECT n FROM t', 'regression_1'), 42, 'dropped: a clone stays');
	$do->('CREATE EXTENSION testdb');
	is( ask('SELECT name, template FROM testdb_clones'),
		'regression_1|regression_template',
		'created again: the clone is known');
	is(run($open, q{SELECT testdb_drop(testdb_clone('regression_template'))}), 't', 'created again: all works');
}

# The extension is older than the library.
ask(q{CREATE EXTENSION testdb VERSION '0.0.9'}, 'regression_old');
my $old = $node->connect_to('regression_old');
$old->do(q{SELECT testdb_clone('regression_template')});
is($old->told, mismatch('0.0.9', $version, $update), 'an older extension');
ask('ALTER EXTENSION testdb UPDATE', 'regression_old');
is(run($old, q{SELECT testdb_drop(testdb_clone('regression_template'))}), 't', 'the same session after the update');

# A session that has found that it fits finds out that it doesn't any more, however that happens.
$old->do('BEGIN');
ask(q{DROP EXTENSION testdb}, 'regression_old');
ask(q{CREATE EXTENSION testdb VERSION '0.0.9'}, 'regression_old');
$old->do(q{SELECT testdb_clone('regression_template')});
is($old->told, mismatch('0.0.9', $version, $update), 'a session in a transaction');
$old->do('ROLLBACK');
$old->do(q{BEGIN; ALTER EXTENSION testdb UPDATE});
is(run($old, q{SELECT count(*) FROM testdb_clones}), 1, 'updated in the transaction');
$old->do('ROLLBACK');
$old->do(q{SELECT count(*) FROM testdb_clones});
is($old->told, mismatch('0.0.9', $version, $update), 'and rolled back');
$old->close;
ask('DROP DATABASE regression_old');

# The next version is installed; the server goes on with the library that it has.
install($next_source);
is(ask(q{SELECT testdb_drop(testdb_clone('regression_template'))}), 't', 'next version installed: a new session');
is(run($open, q{SELECT testdb_drop(testdb_clone('regression_template'))}),
	't', 'next version installed: an open session');
is($node->error_of('ALTER EXTENSION testdb UPDATE'), mismatch($next, $version, $restart), 'update before the restart');
is(ask($extversion), $version, 'it has changed nothing');
is( $node->error_of('CREATE EXTENSION testdb', db => 'regression_other'),
	mismatch($next, $version, $restart),
	'a new extension before the restart');
is(run($open, q{SELECT testdb_drop(testdb_clone('regression_template'))}), 't', 'all works as before');
is(slurp($node->data_dir . '/postmaster.pid') =~ s/\n.*//sr, $postmaster, 'the server has not been restarted so far');
$open->close;

$node->restart;
all_say(mismatch($version, $next, $update), 'after the restart everything asks for the update');
$open = $node->connect_to('postgres');
$open->do('SELECT count(*) FROM testdb_clones');
is($open->told, mismatch($version, $next, $update), 'to an open session, too');
ask('ALTER EXTENSION testdb UPDATE');
is(ask($extversion), $next, 'updated');
is(run($open, q{SELECT name, state FROM testdb_clones}), 'regression_1|leased', 'the open session sees the clone');
is(run($open, 'SELECT testdb_next()'), 42, 'and calls what is new');
is(run($open, q{SELECT testdb_drop('regression_1'), testdb_drop(testdb_clone('regression_template'))}),
	't|t', 'and what is not');
ask('CREATE EXTENSION testdb', 'regression_other');
is(ask('SELECT testdb_next()', 'regression_other'), 42, 'a new extension after the restart');
SKIP:
{
	skip 'the server does not tell the version of a library', 1 unless $known =~ /^extension_control_path\t/m;
	is(ask(q{SELECT version FROM pg_get_loaded_modules() WHERE module_name = 'testdb'}),
		$next, 'pg_get_loaded_modules()');
}

# Back again: the extension is newer than the library.
$open->close;
install($this_source);
$node->restart;
all_say(mismatch($next, $version, $restart), 'an older library');
is( $node->error_of('SELECT testdb_next()'),
	mismatch($next, $version, $restart),
	'a function that the older library does not have');
install($next_source);
ask("ALTER EXTENSION testdb UPDATE TO '$version'");
is(ask(q{SELECT testdb_drop(testdb_clone('regression_template'))}), 't', 'with the script that leads back');

$node->stop;
done_testing();
