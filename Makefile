# testdb: databases for test suites, handed out by the server itself.
#
#   make && make install      build and install (PG_CONFIG=... picks the PostgreSQL)
#   make DEBUG=1              with testdb's own checks (-DTESTDB_DEBUG); "make clean" when switching
#   make demo                 throwaway server, 50 clones from 4 clients, a table of times
#   make server, server-stop  a throwaway server to play with
#   make test                 every test on throwaway servers; TESTS="regress t/003_cancel.pl" picks some
#   make bench                how fast it is, beside CREATE DATABASE and what the machine allows at best
#   make bench-servers        tests in a second with one, two and three servers
#   make bench-peers          beside what other tools send, which have a database for each test or clean up after it
#   make test-peers           what has never heard of testdb, with CREATE DATABASE served and not: pytest-postgresql, Django, ...
#   make test-core            PostgreSQL's own regression suite with testdb preloaded, compared with the same without
#   make test-image           the image, on a stand-in for the official one: built, run, used from outside
#   make test-matrix          every test on other majors, in chroots (16: out of a wheel); MAJORS="17 18" picks some
#   make test-assert          every test on a server with assertions, built from source
#   make test-valgrind        the essential ones under valgrind
#   make test-package         builds Debian's package, installs it in a chroot and tests it there
#   make test-examples        the examples, installed from their registries and run; STACKS="node-pg" picks some
#   make test-pools           rewinds under the pools of node-postgres, asyncpg, SQLAlchemy, Go, HikariCP and pgbouncer;
#                             POOLS="node go" picks some
#   make test-yaml            what docs/ shows for CI services, docker/compose.yaml and docker/kubernetes.yaml, by their schemas
#   make indent               lays out the sources as pgindent and perltidy do it; CHECK=1 only tells what would change
#   make dist                 packs what is committed as testdb-VERSION.zip, for PGXN
#
# From "demo" to "indent" they need nothing beforehand, not even pg_config: their scripts install or name what is missing.

MODULE_big = testdb
EXTENSION = testdb

# The folder of this file, which is another one than the current in a VPATH build (make -f SRC/Makefile). PGXS adds
# its own $(srcdir) in front of DATA and the tests, so they are listed relative to it.
here := $(patsubst %/,%,$(dir $(firstword $(MAKEFILE_LIST))))
list = $(sort $(patsubst $(here)/%,%,$(wildcard $(here)/$(1))))

OBJS = $(patsubst %.c,%.o,$(call list,src/*.c))
DATA = $(call list,sql/testdb--*.sql)
SCRIPTS = bin/testdb-template

# The version stands in the control file only.
GET_VERSION = sed -n "s/^default_version *= *'\(.*\)'.*/\1/p"
EXTVERSION := $(shell $(GET_VERSION) '$(here)/testdb.control')

# Tests are found by their files. They need shared_preload_libraries = 'testdb', so a plain installcheck needs a server
# that was started with it, and TEMP_CONFIG for the TAP tests: "make test" sees to both.
REGRESS = $(patsubst sql/%.sql,%,$(filter-out sql/testdb--%,$(call list,sql/*.sql)))
ISOLATION = $(patsubst specs/%.spec,%,$(call list,specs/*.spec))
TAP_TESTS ?= 1

override PG_CPPFLAGS += -I$(here)/src $(if $(filter-out 0,$(DEBUG)),-DTESTDB_DEBUG)
# Hidden: the short names of src/ must not meet those of the server or of other libraries.
override PG_CFLAGS += -Wall -Wextra -fvisibility=hidden

# Bitcode would serve JIT inlining, which nothing here gains from: build without clang and llvm.
override with_llvm = no

PG_CONFIG ?= pg_config
PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))

ifneq ($(PGXS),)
include $(PGXS)

# Core's headers are system headers, so that the compiler's warnings are about our code only.
override CPPFLAGS := $(patsubst -I$(includedir_server),-isystem $(includedir_server),$(CPPFLAGS))

# PGXS tracks headers only where PostgreSQL was configured with --enable-depend, and makes no subfolders.
$(OBJS): $(wildcard $(here)/src/*.h) $(here)/Makefile
ifneq ($(here),.)
$(shell mkdir -p src)
endif

# PGXS installs scripts without their folder, and removes them with it.
uninstall: uninstall-scripts
uninstall-scripts:
	rm -f $(addprefix '$(DESTDIR)$(bindir)'/,$(notdir $(SCRIPTS)))
.PHONY: uninstall-scripts

# Those that tell it.
src/testdb.o src/version.o: override CPPFLAGS += -DTESTDB_VERSION='"$(EXTVERSION)"'
src/testdb.o src/version.o: $(here)/testdb.control
else
.DEFAULT_GOAL := all
all install installcheck uninstall clean:
	@echo "No PostgreSQL to build against: install its development package (Debian: postgresql-server-dev-N), or set PG_CONFIG." >&2; exit 1
endif

demo:
	@bash '$(here)/test/demo'
server:
	@bash '$(here)/test/server' start
server-stop:
	@bash '$(here)/test/server' stop
test:
	@bash '$(here)/test/run' $(TESTS)
bench:
	@bash '$(here)/bench/run' $(BENCH)
bench-peers:
	@bash '$(here)/bench/peers' $(BENCH)
bench-servers:
	@bash '$(here)/bench/servers' $(BENCH)
test-matrix:
	@bash '$(here)/test/matrix' $(MAJORS)
test-assert:
	@bash '$(here)/test/assert' $(MAJORS)
test-peers:
	@bash '$(here)/test/peers' $(PEERS)
test-core:
	@bash '$(here)/test/core'
test-image:
	@bash '$(here)/test/image' $(MAJORS)
test-valgrind:
	@bash '$(here)/test/valgrind'
test-package:
	@bash '$(here)/test/package' $(MAJORS)
test-examples:
	@bash '$(here)/test/examples' $(STACKS)
test-pools:
	@bash '$(here)/test/pools' $(POOLS)
test-yaml:
	@bash '$(here)/test/yaml'

indent:
	@bash '$(here)/test/indent' $(if $(CHECK),--check)

# Named after the version that is committed, which is what it holds.
dist:
	@cd '$(here)' && version=$$(git show HEAD:./testdb.control | $(GET_VERSION)) && [ -n "$$version" ] || \
		{ echo "make dist packs what is committed: it needs git, and a clone of testdb's repository." >&2; exit 1; }; \
	git diff --quiet HEAD -- . || echo "What is not committed is left out." >&2; \
	git archive --format=zip --prefix="testdb-$$version/" --output="$(CURDIR)/testdb-$$version.zip" HEAD && \
	echo "testdb-$$version.zip"
.PHONY: all install installcheck uninstall clean demo server server-stop test bench bench-peers bench-servers test-matrix \
	test-assert test-valgrind test-package test-image test-examples test-pools test-peers test-core test-yaml indent dist
