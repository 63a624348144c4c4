package shop;

import java.math.BigDecimal;
import java.util.List;
import java.util.Map;
import org.springframework.jdbc.core.simple.JdbcClient;
import org.springframework.stereotype.Service;
import org.springframework.transaction.annotation.Transactional;

/** The application: a shop. It commits for itself, as applications do. */
@Service
public class Shop {
    /** Something is not there in the amount that was ordered. */
    public static class OutOfStock extends RuntimeException {
    }

    private final JdbcClient db;

    public Shop(JdbcClient db) {
        this.db = db;
    }

    /** Orders products, with the amount of each, for a customer, and returns the order's number. */
    @Transactional
    public long placeOrder(long customer, Map<Long, Integer> items) {
        long order = db.sql("INSERT INTO purchase (customer_id) VALUES (?) RETURNING id").param(customer).query(Long.class).single();
        items.forEach((product, amount) -> {
            int taken = db.sql("UPDATE stock SET amount = amount - :amount WHERE product_id = :product AND amount >= :amount")
                    .param("amount", amount).param("product", product).update();
            if (taken == 0) {
                throw new OutOfStock();
            }
            db.sql("INSERT INTO purchase_item VALUES (?, ?, ?)").params(order, product, amount).update();
        });
        return order;
    }

    public int inStock(long product) {
        return db.sql("SELECT sum(amount) FROM stock WHERE product_id = ?").param(product).query(Integer.class).single();
    }

    public List<Long> ordersOf(long customer) {
        return db.sql("SELECT id FROM purchase WHERE customer_id = ? ORDER BY id").param(customer).query(Long.class).list();
    }

    /** Pays for an order, and returns the total. */
    @Transactional
    public BigDecimal pay(long order) {
        return db.sql("""
                INSERT INTO payment (purchase_id, total)
                SELECT i.purchase_id, sum(p.price * i.amount)
                FROM purchase_item i JOIN product p ON p.id = i.product_id
                WHERE i.purchase_id = ? GROUP BY 1 RETURNING total""").param(order).query(BigDecimal.class).single();
    }

    public BigDecimal revenue() {
        return db.sql("SELECT coalesce(sum(total), 0) FROM payment").query(BigDecimal.class).single();
    }
}
