# A test that fails, to see what is left of it. It needs to be asked for: SHOW_FAILURE=1 rspec spec/kept_spec.rb
RSpec.describe 'a test that fails', fails_on_purpose: true do
  it 'keeps its database' do
    Purchase.place(Customer.first, Product.first => 1)
    expect(Purchase.count).to eq 0
  end
end
