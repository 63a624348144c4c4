# One database for this process, rewound before each test.
RSpec.describe Payment, same_database: true do
  { 'kettle' => 30, 'teapot' => 25.5, 'rake' => 12 }.each do |name, price|
    (1..5).each do |amount|
      it "adds the price of #{amount} #{name}s to the revenue" do
        expect(Payment.revenue).to eq 0
        Purchase.place(Customer.first, Product.find_by!(name: name) => amount).pay
        expect(Payment.revenue).to eq price * amount
      end
    end
  end

  it 'may do without a table' do
    ActiveRecord::Base.connection.drop_table(:shipments)
  end

  it 'has the table again' do
    expect(ActiveRecord::Base.connection.select_value('SELECT count(*) FROM shipments')).to eq 0
  end
end
