-- Of exits that hold one address, the one with a line keeps it, or the oldest; the others serve nobody.
UPDATE `hosts` SET `public_address` = NULL
WHERE `role` = 'exit' AND `state` <> 'retired' AND `public_address` IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM `lines` l WHERE l.`exit_host_id` = `hosts`.`id` AND l.`state` <> 'deleted')
  AND EXISTS (
    SELECT 1 FROM `hosts` o
    WHERE o.`role` = 'exit' AND o.`state` <> 'retired' AND o.`public_address` = `hosts`.`public_address` AND o.`id` <> `hosts`.`id`
      AND (o.`id` < `hosts`.`id` OR EXISTS (SELECT 1 FROM `lines` l WHERE l.`exit_host_id` = o.`id` AND l.`state` <> 'deleted'))
  );--> statement-breakpoint
ALTER TABLE `hosts` ADD `capacity` integer;--> statement-breakpoint
CREATE UNIQUE INDEX `hosts_exit_address` ON `hosts` (`public_address`) WHERE role = 'exit' AND state <> 'retired' AND public_address IS NOT NULL;--> statement-breakpoint
ALTER TABLE `pairs` ADD `retired_at` integer;--> statement-breakpoint
ALTER TABLE `jobs` ADD `losses` integer DEFAULT 0 NOT NULL;