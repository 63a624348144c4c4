require 'minitest/autorun'
require 'active_support/test_case'
require 'shop'
require_relative 'test_database'

# A database for each test. In a Rails project this is ActiveSupport::TestCase, with use_transactional_tests = false.
class DatabaseTest < ActiveSupport::TestCase
  # Each worker is a process, and has a connection of its own to testdb: none is opened before they are forked.
  parallelize workers: ENV.fetch('PARALLEL_WORKERS', 4).to_i

  setup { TestDatabase.fresh("#{self.class}##{name}") }

  # Later than teardown, which may want the database, and knows whether the test has failed.
  def after_teardown
    super
    TestDatabase.give_back(!passed? && !skipped?)
  end
end

# The database of the worker, rewound before each test.
class SameDatabaseTest < ActiveSupport::TestCase
  parallelize workers: ENV.fetch('PARALLEL_WORKERS', 4).to_i

  setup { TestDatabase.same }
end
