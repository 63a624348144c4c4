package shop;

import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.Map;

/** The application: a shop. It commits for itself, as applications do. */
public class Shop {
    /** Something is not there in the amount that was ordered. */
    public static class OutOfStock extends RuntimeException {
    }

    private final Connection db;

    public Shop(Connection db) {
        this.db = db;
    }

    /** Orders products, with the amount of each, for a customer, and returns the order's number. */
    public long placeOrder(long customer, Map<Long, Integer> items) throws SQLException {
        db.setAutoCommit(false);
        try {
            long order = number("INSERT INTO purchase (customer_id) VALUES (?) RETURNING id", customer).longValue();
            for (Map.Entry<Long, Integer> item : items.entrySet()) {
                int amount = item.getValue();
                if (update("UPDATE stock SET amount = amount - ? WHERE product_id = ? AND amount >= ?",
                        amount, item.getKey(), amount) == 0) {
                    throw new OutOfStock();
                }
                update("INSERT INTO purchase_item VALUES (?, ?, ?)", order, item.getKey(), amount);
            }
            db.commit();
            return order;
        } finally {
            db.rollback();
            db.setAutoCommit(true);
        }
    }

    public int inStock(long product) throws SQLException {
        return number("SELECT sum(amount) FROM stock WHERE product_id = ?", product).intValue();
    }

    /** Pays for an order, and returns the total. */
    public BigDecimal pay(long order) throws SQLException {
        return number("INSERT INTO payment (purchase_id, total)"
                + " SELECT i.purchase_id, sum(p.price * i.amount)"
                + " FROM purchase_item i JOIN product p ON p.id = i.product_id"
                + " WHERE i.purchase_id = ? GROUP BY 1 RETURNING total", order);
    }

    public BigDecimal revenue() throws SQLException {
        return number("SELECT coalesce(sum(total), 0) FROM payment");
    }

    private PreparedStatement prepare(String sql, Object... values) throws SQLException {
        PreparedStatement statement = db.prepareStatement(sql);
        for (int i = 0; i < values.length; i++) {
            statement.setObject(i + 1, values[i]);
        }
        return statement;
    }

    private int update(String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = prepare(sql, values)) {
            return statement.executeUpdate();
        }
    }

    private BigDecimal number(String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = prepare(sql, values); ResultSet rows = statement.executeQuery()) {
            rows.next();
            return rows.getBigDecimal(1);
        }
    }
}
