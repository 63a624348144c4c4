
# What the distribution says of itself, for which no server is needed: META.json is what PGXN expects, the version in the
# control file is the version everywhere, the documentation has all that there is, and its links lead somewhere.

use strict;
use warnings;

use File::Temp qw(tempdir);
use FindBin;
use JSON::PP;
use Test::More;

my $top = "$FindBin::RealBin/..";

# The text of a file in the distribution.
sub slurp
{
	my ($file) = @_;
	open my $in, '<', "$top/$file" or die "$file: $!";
	local $/ = undef;
	return scalar <$in>;
}

# Is it a text with something to read in it?
sub is_text
{
	my ($value) = @_;
	return defined $value && !ref $value && $value =~ /\S/;
}

# Is it a version as PGXN wants it, a semantic one?
sub is_version
{
	my ($value) = @_;
	my $number = qr/(?:0|[1-9][0-9]*)/;
	return is_text($value) && $value =~ /^$number\.$number\.$number(?:-[0-9A-Za-z-]+)?$/;
}

# Is it a file that the distribution has?
sub is_file
{
	my ($value) = @_;
	return is_text($value) && $value !~ m{^/|\.\.} && -f "$top/$value";
}

# Short names of licenses that the specification knows.
my %licenses = map { $_ => 1 } qw(agpl_3 apache_1_1 apache_2_0 artistic_1 artistic_2 bsd freebsd gfdl_1_2 gfdl_1_3
  gpl_1 gpl_2 gpl_3 lgpl_2_1 lgpl_3_0 mit mozilla_1_0 mozilla_1_1 openssl perl_5 postgresql qpl_1_0 ssleay sun zlib
  open_source restricted unrestricted unknown);

# What may stand at the top, beside names that begin with x_.
my %known = map { $_ => 1 } qw(name version abstract maintainer license provides meta-spec description
  generated_by tags no_index prereqs release_status resources);

# What is wrong with the license: a short name, a list of them, or names with addresses.
sub license_problems
{
	my ($license) = @_;
	return 'license: no address' if ref $license eq 'HASH' && (!%$license || grep { !m{^https?://} } values %$license);
	return () if ref $license eq 'HASH';
	my @names = ref $license eq 'ARRAY' ? @$license : ($license);
	return @names && !grep({ !is_text($_) || !$licenses{$_} } @names) ? () : 'license';
}

# What is wrong with what is provided: extensions, each with a file and a version.
sub provides_problems
{
	my ($provides) = @_;
	return 'provides' unless ref $provides eq 'HASH' && %$provides;
	my @problems;
	for my $name (sort keys %$provides)
	{
		my $entry = $provides->{$name};
		push @problems, "provides.$name.file" unless is_file($entry->{file});
		push @problems, "provides.$name.version" unless is_version($entry->{version});
		push @problems, "provides.$name.docfile" if exists $entry->{docfile} && !is_file($entry->{docfile});
		push @problems, "provides.$name.abstract" if exists $entry->{abstract} && !is_text($entry->{abstract});
	}
	return @problems;
}

# What is wrong with the prerequisites: versions of things, by what for and how badly they are needed.
sub prereqs_problems
{
	my ($prereqs) = @_;
	my @problems;
	for my $phase (sort keys %$prereqs)
	{
		push @problems, "prereqs.$phase" unless $phase =~ /^(configure|build|test|runtime|develop|x_\w+)$/;
		for my $how (sort keys %{ $prereqs->{$phase} })
		{
			my $wanted = $prereqs->{$phase}{$how};
			push @problems, "prereqs.$phase.$how" unless $how =~ /^(requires|recommends|suggests|conflicts|x_\w+)$/;
			push @problems, map { "prereqs.$phase.$how.$_" }
			  grep { !is_version($wanted->{$_}) && $wanted->{$_} ne '0' } sort keys %$wanted;
		}
	}
	return @problems;
}

# All that is wrong with a META.json by PGXN's specification, version 1: names of fields.
sub meta_problems
{
	my ($meta) = @_;
	my @problems = map { "$_: unknown" } grep { !$known{$_} && !/^x_/ } sort keys %$meta;
	push @problems, 'name' unless is_text($meta->{name}) && $meta->{name} =~ m{^[^\s/\\[:cntrl:]]{2,}$};
	push @problems, 'version' unless is_version($meta->{version});
	push @problems, 'abstract' unless is_text($meta->{abstract}) && $meta->{abstract} !~ /\n/;
	my $maintainer = $meta->{maintainer};
	my @maintainers = ref $maintainer eq 'ARRAY' ? @$maintainer : ($maintainer);
	push @problems, 'maintainer' if !@maintainers || grep { !is_text($_) } @maintainers;
	push @problems, license_problems($meta->{license}), provides_problems($meta->{provides});
	my $spec = $meta->{'meta-spec'};
	push @problems, 'meta-spec'
	  unless ref $spec eq 'HASH' && is_text($spec->{version}) && $spec->{version} =~ /^1\.0\.\d+$/;
	push @problems, 'meta-spec.url'
	  if ref $spec eq 'HASH' && exists $spec->{url} && $spec->{url} !~ m{^https?://(www\.)?pgxn\.org/meta/spec\.txt$};
	push @problems, prereqs_problems($meta->{prereqs} // {});
	push @problems, 'release_status' unless ($meta->{release_status} // 'stable') =~ /^(stable|testing|unstable)$/;
	push @problems, 'description' if exists $meta->{description} && !is_text($meta->{description});
	my $tags = $meta->{tags} // [];
	push @problems, 'tags'
	  if ref $tags ne 'ARRAY' || grep { !is_text($_) || length > 255 || m{[/\\[:cntrl:]]} } @$tags;
	return @problems;
}

# All that disagrees with the control file's version: where it stands.
sub version_problems
{
	my ($version, $meta, $changelog, $debian) = @_;
	my @problems;
	push @problems, 'META.json' unless $meta->{version} eq $version;
	push @problems, 'META.json, provides' unless $meta->{provides}{testdb}{version} eq $version;
	push @problems, 'META.json, file' unless $meta->{provides}{testdb}{file} eq "sql/testdb--$version.sql";
	push @problems, 'CHANGELOG.md' unless ($changelog =~ /^## (\S+) \(/m)[0] eq $version;
	push @problems, 'debian/changelog' unless ($debian =~ /^testdb \((.*)-[^-]+\)/)[0] eq $version;
	return @problems;
}

# Scripts that lead from each version in the changelog to the one after it, and that are not there.
sub missing_scripts
{
	my ($changelog) = @_;
	my @versions = reverse $changelog =~ /^## (\S+) \(/mg;
	return grep { !-f "$top/$_" } map { "sql/testdb--$versions[$_ - 1]--$versions[$_].sql" } 1 .. $#versions;
}

# What a text should name in backquotes, and does not.
sub unnamed
{
	my ($text, @names) = @_;
	return grep { $text !~ /`\Q$_\E(?:`|\()/ && $text !~ /CALL \Q$_\E\(/ } @names;
}

# The part of a page under a heading, up to the next one of the same depth or less.
sub section
{
	my ($text, $heading) = @_;
	my ($found) = $text =~ /^## \Q$heading\E\n(.*?)(?=^## |\z)/ms;
	return $found // '';
}

# The names of all views, and of their columns as "view.column".
sub views
{
	my ($sql) = @_;
	my %columns = map { $_ => [] } $sql =~ /^CREATE VIEW (\w+)/mg;
	push @{ $columns{$1} }, $2 while $sql =~ /^COMMENT ON COLUMN (\w+)\.(\w+) IS/mg;
	return \%columns;
}

# Settings as guc.c defines them: name, default and who may change it.
sub settings
{
	my ($source) = @_;
	my %by = (
		PGC_POSTMASTER => 'restart',
		PGC_SIGHUP => 'reload',
		PGC_SUSET => q{superuser's `SET`},
		PGC_USERSET => '`SET`');
	my @settings;
	while ($source =~ /DefineCustom\w+Variable\("(testdb\.\w+)",(.*?)\bNULL, NULL, NULL\);/gs)
	{
		my ($name, $rest) = ($1, $2);
		my ($value) = $rest =~ /&testdb_\w+,\s*("[^"]*"|[\w-]+)/;
		my ($context) = $rest =~ /\b(PGC_\w+)/;
		$value =~ s/^TESTDB_METHOD_(\w+)/lc $1/e;
		push @settings, [ $name, { false => 'off', true => 'on' }->{$value} // $value =~ s/"//gr, $by{$context} ];
	}
	return @settings;
}

# Is there a row for this setting in the table, with this default, with or without a unit, and this way to change it?
sub has_setting
{
	my ($table, $name, $value, $by) = @_;
	return $table =~ /^\| `\Q$name\E` \| `?\Q$value\E`?(?: \w+)? ?\| \Q$by\E \|/m;
}

# The errors that a source file raises: conditions, and messages with dots for what differs.
sub errors
{
	my ($source) = @_;
	my %errors;
	for my $call ($source =~ /\bereport\((?:ERROR|FATAL|elevel|data_sync_elevel\(ERROR\)),(.*?)\);\n/gs)
	{
		my ($condition) = $call =~ /errcode\(ERRCODE_(?:T_R_)?(\w+)\)/;
		$errors{ lc($condition) } = 1 if defined $condition;
		while ($call =~ /errmsg(?:_plural)?\(((?:"(?:[^"\\]|\\.)*"\s*)+)/g)
		{
			my $message = join '', $1 =~ /"((?:[^"\\]|\\.)*)"/g;
			$message =~ s/\\"/"/g;
			$message =~ s/%%|%\w+/.../g;
			$errors{$message} = 1;
		}
	}
	return sort keys %errors;
}

# The errors that a table of them does not have.
sub undocumented_errors
{
	my ($table, @errors) = @_;
	return grep { $_ ne '...' && $table !~ /`\Q$_\E`/ } @errors;
}

# The anchors of a page: of each heading, as GitHub makes them.
sub anchors
{
	my ($text) = @_;
	$text =~ s/^```.*?^```//gms;
	return map { my $anchor = lc; $anchor =~ s/[^\w\- ]//g; $anchor =~ tr/ /-/; $anchor } $text =~ /^#+ (.*)$/mg;
}

# Links of a page to files that are not there, or to headings that are not on the page.
sub broken_links
{
	my ($page, $text) = @_;
	my ($folder) = $page =~ m{^(.*/)?};
	$folder //= '';
	my @broken;
	$text =~ s/^```.*?^```//gms;
	while ($text =~ /\]\(([^)\s]+)\)/g)
	{
		my $link = $1;
		next if $link =~ m{^https?://};
		my ($file, $anchor) = $link =~ /^([^#]*)(?:#(.*))?$/;
		my $path = $file eq '' ? $page : $folder . $file;
		push @broken, "$page: $link"
		  unless -e "$top/$path" && (!defined $anchor || grep { $_ eq $anchor } anchors(slurp($path)));
	}
	return @broken;
}

# The changes of a clone's state as src/README draws them: "FROM TO function", each with the file that it names.
sub drawn_edges
{
	my ($text) = @_;
	my %edges;
	my ($drawing) = $text =~ /^from {8}to {10}by\n(.*?)\n\n/ms;
	my ($from, $to);
	for my $line (split /\n/, $drawing // '')
	{
		$from = $1 if $line =~ /^(\S+)/;
		$to = $1 if $line =~ /^.{12}(\S+)/;
		s/\(none\)/NONE/ for $from, $to;
		$edges{"$from $to $1"} = $2 while $line =~ /(\w+) \((\w+\.c)\)/g;
	}
	return \%edges;
}

# The same as the table in states.c has them.
sub table_edges
{
	my ($source) = @_;
	return [
		map { "$_->[0] $_->[1] $_->[2]" } map { [/^\t\{CLONE_(\w+), CLONE_(\w+), "(\w+)"\}/] }
		  grep { /^\t\{CLONE_/ } split /\n/,
		$source
	];
}

# The functions of a source file: name and text.
sub functions
{
	my ($source) = @_;
	return $source =~ /^(\w+)\([^;{]*?\)\n(\{\n.*?^\})/gms;
}

# Changes of state that a source file makes and that are not among these, or not in this file; "?" is what the code does not
# say in so many words.
sub unknown_edges
{
	my ($file, $source, $edges) = @_;
	my @unknown;
	my @functions = functions($source);
	while (my ($name, $text) = splice @functions, 0, 2)
	{
		my @made;
		push @made, [ $1 // '?', $2 // '?' ]
		  while $text =~ /\bregistry_set_state\([^;]*?,\s*(?:CLONE_(\w+)|[^,;]+),\s*(?:CLONE_(\w+)\)|[^;]+;)/g;
		push @made, [ $1, '?' ]      while $text =~ /\bregistry_update\([^;]*?,\s*CLONE_(\w+)\)/g;
		push @made, [ 'LEASED', $1 ] while $text =~ /\bregistry_end_lease\([^;]*?,\s*CLONE_(\w+),/g;
		push @made, [ '?', $1 ]      while $text =~ /\bclone_set_state\(\w+, CLONE_(\w+)\)/g;
		push @made, [ '?', 'NONE' ]  while $text =~ /\b(?:registry_remove|registry_forget|registry_forget_entry)\(/g;
		for my $edge (@made)
		{
			my ($from, $to) = map { $_ eq '?' ? qr/\w+/ : $_ } @$edge;
			push @unknown, "@$edge $name"
			  unless grep { /^$from $to $name$/ && $edges->{$_} eq $file } keys %$edges;
		}
	}
	return @unknown;
}

# Changes that no function of that name makes in the file that is named.
sub unmade_edges
{
	my ($edges, %sources) = @_;
	my $setter = qr/\b(?:registry_(?:set_state|update|end_lease|add|remove|forget|forget_entry)|clone_set_state)\(/;
	return grep {
		my ($name) = / (\w+)$/;
		my %functions = functions($sources{ $edges->{$_} } // '');
		($functions{$name} // '') !~ $setter;
	} sort keys %$edges;
}

# A deep copy, in which one field is changed; undef removes it.
sub changed
{
	my ($meta, $value, @path) = @_;
	my $copy = decode_json(encode_json($meta));
	my $last = pop @path;
	my $at = $copy;
	$at = $at->{$_} for @path;
	if   (defined $value) { $at->{$last} = $value }
	else                  { delete $at->{$last} }
	return $copy;
}

# How many lines of code a file has: without blank lines, comments, what is imported, and brackets that stand alone.
sub code_lines
{
	my ($file, $text) = @_;
	$text =~ s{^\s*/\*.*?\*/}{}gms if $file =~ /\.(?:js|ts|java|php)$/;
	$text =~ s{^\s*\"\"\".*?\"\"\"$}{}gms if $file =~ /\.py$/;
	$text =~ s{^import \(.*?^\)}{}gms if $file =~ /\.go$/;
	my $import =
	  qr/import |from \S+ import |use [\w:]+[ ;:]|package |require |\w+ = require\b|const .* = require\(|<\?php$|1;$/;
	return scalar grep { /\S/ && !m{^\s*(?://|#)} && !/^(?:$import)/ && !/^\s*(?:[][(){};,]+|end|else|\} else \{)$/ }
	  split /\n/, $text;
}

# What the README of the examples says of their glue, by the table's rows: stack, file, lines.
sub glue
{
	my ($text) = @_;
	return map { [ /^\| \[([^]]+)\]/, m{\| \[[^]]+\]\(([^)]+)\), (\d+) \|$} ] } grep { /^\| \[/ } split /\n/, $text;
}

my $meta = decode_json(slurp('META.json'));
my ($version) = slurp('testdb.control') =~ /^default_version = '(.*)'$/m;
my $changelog = slurp('CHANGELOG.md');
my $debian = slurp('debian/changelog');

ok(is_version($version), 'the control file has a semantic version');
is_deeply([ meta_problems($meta) ], [], 'META.json follows the specification');
is_deeply([ version_problems($version, $meta, $changelog, $debian) ], [], 'the version is the same everywhere');
is_deeply([ missing_scripts($changelog) ], [], 'there is a script from each version to the next');
is($meta->{name}, 'testdb', 'the name');
my ($minimum) = slurp('src/compat.h') =~ /^#if PG_VERSION_NUM < (\d+)0000\n#error/m;
is($meta->{prereqs}{runtime}{requires}{PostgreSQL}, "$minimum.0.0", 'the oldest PostgreSQL is the one that compiles');
my $guard = '^\\\\echo Use "(CREATE|ALTER) EXTENSION testdb.*" to load this file\. \\\\quit$';
is_deeply([ grep { slurp("sql/$_") !~ /$guard/m } map { s{.*/}{}r } glob "$top/sql/testdb--*.sql" ],
	[], 'scripts refuse to be run by psql');

# The documentation.
my $reference = slurp('docs/reference.md');
my $sql = slurp("sql/testdb--$version.sql");
my %functions = map { $_ => 1 } $sql =~ /^CREATE (?:FUNCTION|PROCEDURE) (testdb_\w+)\(/mg;
my $views = views($sql);
cmp_ok(scalar keys %functions, '>', 15, 'functions were found');
cmp_ok(scalar keys %$views, '>', 3, 'views were found');
is_deeply([ unnamed(section($reference, 'Functions'), grep { !$views->{$_} } sort keys %functions) ],
	[], 'the reference has every function');

for my $view (sort keys %$views)
{
	my ($table) = section($reference, 'Views') =~ /^\*\*`$view`\*\*(.*?)(?=^\*\*`|\z)/ms;
	cmp_ok(scalar @{ $views->{$view} }, '>', 5, "columns of $view were found");
	is_deeply([ unnamed($table // '', @{ $views->{$view} }) ], [], "the reference has every column of $view");
}
my @settings = settings(slurp('src/guc.c'));
cmp_ok(scalar @settings, '>', 15, 'settings were found');
is_deeply([ map { $_->[0] } grep { !has_setting(section($reference, 'Settings'), @$_) } @settings ],
	[], 'the reference has every setting, its default and how to change it');
my @errors = map { errors(slurp($_)) } grep { $_ ne 'src/debug.c' } map { s{.*/(?=src/)}{}r } glob "$top/src/*.c";
cmp_ok(scalar @errors, '>', 60, 'errors were found');
is_deeply([ undocumented_errors(section($reference, 'Errors'), @errors) ], [], 'the reference has every error');
my @pages = ('README.md', 'CONTRIBUTING.md', 'examples/README.md', map { s{.*/(?=docs/)}{}r } glob "$top/docs/*.md");
is_deeply([ map { broken_links($_, slurp($_)) } @pages ], [], 'links lead somewhere');

# What one copies from the examples, and owns. Spring takes more: its context wants one data source, and each test a pool.
my @glue = glue(slurp('examples/README.md'));
my %most = (spring => 38);
is_deeply([ sort map { $_->[0] } @glue ], [ map { m{([^/]+)/$} } glob "$top/examples/*/" ], 'each example is listed');
is_deeply([ map { [ @$_[ 0, 1 ], code_lines($_->[1], slurp("examples/$_->[1]")) ] } @glue ],
	\@glue, 'how much glue it has');
is_deeply([ grep { $_->[2] > ($most{ $_->[0] } // 30) } @glue ], [], 'none has too much');

# The sources.
my $limits = qx("$^X" "$top/test/limits");
is_deeply([ $? >> 8, grep { /too many$/ } split /\n/, $limits ], [0], 'no file, function or signature is too long');
like($limits, qr/^nothing is above the limits$/m, 'test/limits ran');
my %sources = map { s{.*/}{}r => scalar slurp('src/' . s{.*/}{}r) } glob "$top/src/*.c";
my $drawn = drawn_edges(slurp('src/README'));
my $table = table_edges($sources{'states.c'});
cmp_ok(scalar @$table, '>', 50, 'changes of state were found');
is_deeply([ sort keys %$drawn ], [ sort @$table ], 'the drawing and the table of states have the same changes');
is_deeply([ map { unknown_edges($_, $sources{$_}, $drawn) } sort keys %sources ], [], 'nothing else changes a state');
is_deeply([ unmade_edges($drawn, %sources) ], [], 'each change has a function that makes it');

# These checks see what is wrong.
for my $field (qw(name version abstract maintainer license provides meta-spec))
{
	is_deeply([ meta_problems(changed($meta, undef, $field)) ], [$field], "META.json without $field");
}
for my $case (
	[ 'version', '0.1', 'version' ],
	[ 'version', '01.0.0', 'version' ],
	[ 'name', 'test db', 'name' ],
	[ 'license', 'postgres', 'license' ],
	[ 'maintainer', [], 'maintainer' ],
	[ 'release_status', 'beta', 'release_status' ],
	[ 'Tags', [], 'Tags: unknown' ],
	[ 'tags', ['a/b'], 'tags' ],
	[ 'meta-spec', { version => '2.0.0' }, 'meta-spec' ],
	[
		'prereqs', { runtime => { needs => { PostgreSQL => '15' } } },
		'prereqs.runtime.needs', 'prereqs.runtime.needs.PostgreSQL'
	],
	[ 'provides', { testdb => { file => 'sql/testdb--9.9.9.sql', version => '0.1.0' } }, 'provides.testdb.file' ],
	[
		'provides', { testdb => { file => 'Makefile', docfile => 'doc.md', version => '1' } },
		'provides.testdb.version', 'provides.testdb.docfile'
	])
{
	my ($field, $value, @problems) = @$case;
	is_deeply([ meta_problems(changed($meta, $value, $field)) ], \@problems, 'META.json with ' . join ', ', @problems);
}
is_deeply(
	[ version_problems('9.9.9', $meta, $changelog, $debian) ],
	[ 'META.json', 'META.json, provides', 'META.json, file', 'CHANGELOG.md', 'debian/changelog' ],
	'another version in the control file');
is_deeply(
	[ missing_scripts("## 9.9.9 (2099-01-01)\n\n- More\n\n$changelog") ],
	["sql/testdb--$version--9.9.9.sql"],
	'a release without a script');

my $long = tempdir(CLEANUP => 1);
open my $out, '>', "$long/long.c" or die $!;
print $out "int\nwide(int a, int b, int c, int d, int (*e) (int, int), int f)\n{\n", "\t;\n" x 59, "}\n", "\n" x 1200;
close $out;
is_deeply(
	[ map { /(\S+)   too many$/ } qx("$^X" "$top/test/limits" "$long") ],
	[ 'long.c', 'long.c:wide', 'long.c:wide' ],
	'a file, a function and a signature that are too long');
cmp_ok($?, '!=', 0, 'they are a failure');

my $made = drawn_edges(
	"from        to          by\nA           B           f (a.c),\n                        g (b.c)\n            (none)      f (a.c)\n\n"
);
is_deeply($made, { 'A B f' => 'a.c', 'A B g' => 'b.c', 'A NONE f' => 'a.c' }, 'a drawing');
is_deeply(
	table_edges(qq(\t{CLONE_A, CLONE_NONE, "f"},\n\t{CLONE_A, CLONE_B, "f"}\n)),
	[ 'A NONE f', 'A B f' ],
	'a table');
is_deeply([ unknown_edges('a.c', <<'SOURCE', $made) ], [ 'A C f', '? A f', '? NONE g' ], 'changes that are not drawn');
f(int a)
{
	(void) registry_set_state(a, CLONE_A, CLONE_B);
	(void) registry_set_state(a, CLONE_A,
							  CLONE_C);
	clone_set_state(entry, CLONE_A);
	registry_remove(a);
}

g(int a)
{
	registry_remove(a);
}
SOURCE
is_deeply([ unmade_edges($made, 'a.c' => "f(int a)\n{\n\tregistry_add(a);\n}\n", 'b.c' => "g(int a)\n{\n}\n") ],
	['A B g'], 'changes that nothing makes');

my %counted = (
	'a.py' => "import os\nfrom a import b\n\n\"\"\"One\ntwo\n\"\"\"\n# three\na = b(\n    1,\n)\n",
	'a.go' => "package a\n\nimport (\n\t\"os\"\n)\n\n// One\nfunc a() {\n\tb()\n}\n",
	'a.ts' => "import a from 'a';\n/** One\n * two */\nconst a = (b) => {\n  c(); // d\n};\n",
	'a.rb' => "require 'a'\nmodule A\n  b\nend\n",
	'a.sh' => "# shellcheck shell=sh\nset -eu\n\na=b\n",
	'A.php' => "<?php\n\n/** One */\nfinal class A\n{\n    private \$a;\n}\n");
is_deeply([ map { code_lines($_, $counted{$_}) } sort keys %counted ], [ (2) x 6 ], 'lines of code');
is_deeply(
	[ glue("| | Glue |\n|---|---|\n| [a](a) | x | [b.js](a/b.js), 12 |\n") ],
	[ [ 'a', 'a/b.js', 12 ] ],
	'a table of glue');

is_deeply([ unnamed('`testdb_one(a)` and `two`', qw(testdb_one two three on)) ],
	[qw(three on)], 'what is not documented');
ok(!has_setting('| `testdb.a` | 5 ms | reload |', 'testdb.a', 6, 'reload'), 'another default');
ok(!has_setting('| `testdb.a` | 5 ms | reload |', 'testdb.a', 5, 'restart'), 'another way to change it');
is_deeply(
	[
		undocumented_errors(
			'`lost "..."`',
			errors(qq{ereport(ERROR,\n(errcode(ERRCODE_DISK_FULL),\nerrmsg("lost \\"%s\\""), errmsg("gone %d")));\n}))
	],
	[ 'disk_full', 'gone ...' ],
	'an error that is not documented');
is_deeply(
	[ broken_links('docs/page.md', '[a](../README.md) [b](none.md) [c](../README.md#limits) [d](../README.md#none)') ],
	[ 'docs/page.md: none.md', 'docs/page.md: ../README.md#none' ],
	'links that lead nowhere');

done_testing();
