
# The extension lies in a schema that is not in the search_path. Everything of it can be called by its full name, and
# what is said otherwise is what docs/troubleshooting.md has.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $node = TestdbCluster->new_server('schema', '');
my $admin = $node->connect_to('postgres');
my $troubleshooting = slurp_file("$FindBin::RealBin/../docs/troubleshooting.md");
my $schema = 'regression "Odd" schema';
(my $quoted = qq{"$schema"}) =~ s/"Odd"/""Odd""/;
run($admin, $_)
  for "CREATE SCHEMA $quoted", 'DROP EXTENSION testdb', "CREATE EXTENSION testdb SCHEMA $quoted",
  'CREATE DATABASE regression_template IS_TEMPLATE true';

# The arguments that lead to an answer, by the name of the function; the template has no clone of this name.
my %arguments = (
	testdb_clone => q{'regression_template', 'regression_mine'},
	testdb_drop => q{'regression_mine', true},
	testdb_reset => q{'regression_mine'},
	testdb_rewind => q{'regression_mine'},
	testdb_keep => q{'regression_mine'},
	testdb_uri => q{'regression_mine'},
	testdb_prewarm => q{'regression_template', 0},
	testdb_template_set => q{'regression_template', 0},
	testdb_template_begin => q{'regression_built', clock_timestamp()::text},
	testdb_template_drop => q{'regression_built'});
$arguments{"testdb_template_$_"} =
  "(SELECT database::text FROM $quoted.testdb_template_begin('regression_built', clock_timestamp()::text))"
  for qw(finish cancel);

# In this order: what can only be done with a clone in the middle, what ends everything last.
my %order = (testdb_clone => 0, testdb_drop => 2, testdb_drop_all => 3, testdb_uninstall => 4, testdb_install => 5);

my @objects = sort { ($order{ $a->[1] } // 1) <=> ($order{ $b->[1] } // 1) || $a->[1] cmp $b->[1] } $admin->rows(
	q{
	SELECT CASE prokind WHEN 'p' THEN 'procedure' ELSE 'function' END, proname
	FROM pg_proc JOIN pg_depend ON classid = 'pg_proc'::regclass AND objid = pg_proc.oid
		JOIN pg_extension e ON refclassid = 'pg_extension'::regclass AND refobjid = e.oid AND extname = 'testdb'
	UNION ALL SELECT 'relation', relname
	FROM pg_class JOIN pg_depend ON classid = 'pg_class'::regclass AND objid = pg_class.oid
		JOIN pg_extension e ON refclassid = 'pg_extension'::regclass AND refobjid = e.oid AND extname = 'testdb'});
cmp_ok(scalar @objects, '>', 15, 'functions, procedures and views were found');

# What it says about each kind, with the name of any of them.
# What testdb_uri needs.
run($admin, q{SET testdb.uri = 'postgresql://localhost/'});

my %documented;
$documented{$1} = 1
  while $troubleshooting =~ /\*\*`(function|procedure|relation) "?testdb_\w+(?:\(\w*\)|") does not exist`\*\*/g;

sub statement
{
	my ($kind, $name) = @_;
	return "SELECT count(*) FROM $name" if $kind eq 'relation';
	my ($plain) = $name =~ /(testdb_\w+)$/;
	my $call = "$name(" . ($kind eq 'procedure' ? '' : $arguments{$plain} // '') . ')';
	return $kind eq 'procedure' ? "CALL $call" : "SELECT $call";
}

for my $path (q{''}, 'pg_catalog', 'public')
{
	run($admin, "SET search_path = $path");
	for my $object (@objects)
	{
		my ($kind, $name) = @$object;
		my $title = "search_path $path, $kind $name";
		ok(!$admin->do(statement($kind, $name)), "$title: is not found");
		like($admin->told, qr/^(42883|42P01): $kind "?\Q$name\E(\(.*\)|") does not exist/, "$title: and said so");
		ok($documented{$kind}, "$title: docs/troubleshooting.md has that");
		next if $admin->do(statement($kind, "$quoted.$name"));

		# The session is in postgres, which is not a clone.
		like(
			$admin->told,
			qr/^42809: database "postgres" was not created by testdb/,
			"$title: by its full name, it is called");
		is($kind, 'procedure', "$title: only the procedure is about this database");
	}
}

$node->stop;
done_testing();
