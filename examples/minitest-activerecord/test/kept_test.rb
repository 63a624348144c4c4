require 'test_helper'

# A test that fails, to see what is left of it. It needs to be asked for: SHOW_FAILURE=1 rake test TEST=test/kept_test.rb
class KeptTest < DatabaseTest
  test 'fails' do
    Purchase.place(Customer.first, Product.first => 1)
    assert_equal 0, Purchase.count
  end
end if ENV['SHOW_FAILURE']
