# A database for each test.
RSpec.describe 'a database for each test' do
  it 'may change its schema' do
    ActiveRecord::Base.connection.add_column(:products, :weight, :integer, null: false, default: 1)
    expect(ActiveRecord::Base.connection.select_value('SELECT sum(weight) FROM products')).to eq 3
  end

  it 'has the schema of the template' do
    expect(ActiveRecord::Base.connection.column_exists?(:products, :weight)).to be false
  end

  it 'shows other threads what was committed' do
    # There is no transaction around the test.
    kettle = Product.find_by!(name: 'kettle')
    Thread.new { Purchase.place(Customer.first, kettle => 5) }.join
    expect { Purchase.place(Customer.last, kettle => 1) }.to raise_error(Purchase::OutOfStock)
  end
end
