require 'shop'
require_relative 'test_database'

RSpec.configure do |config|
  # A database for each test, unless it says same_database: true.
  config.around do |example|
    next TestDatabase.same && example.run if example.metadata[:same_database]

    TestDatabase.fresh(example.full_description)
    example.run
    TestDatabase.give_back(example.exception)
  end

  # A test that fails on purpose needs to be asked for.
  config.filter_run_excluding fails_on_purpose: true unless ENV['SHOW_FAILURE']
end
