# A database for each test.
RSpec.describe Purchase, 'of the rake' do
  let(:ada) { Customer.find_by!(email: 'ada@example.com') }
  let(:rake) { Product.find_by!(name: 'rake') }

  (1..5).each do |amount|
    it "takes #{amount} from stock" do
      # Number 1, each time: the sequences are the template's, too.
      expect(Purchase.place(ada, rake => amount).id).to eq 1
      expect(Stock.find_by!(product_id: rake.id).amount).to eq 5 - amount
    end
  end

  it 'takes nothing if something is missing' do
    expect { Purchase.place(ada, rake => 6) }.to raise_error(Purchase::OutOfStock)
    expect(Stock.find_by!(product_id: rake.id).amount).to eq 5
    expect(ada.purchases).to be_empty
  end
end
